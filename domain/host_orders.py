"""What an operator asks of the hosts of a running platform, for hospitals too, and how they stand. JSON on the wire."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from domain.errors import InvalidInput


class Placement(StrEnum):
    """`dedicated`: the hospital has a shard of its own, and that shard a host with nothing else on it."""

    SHARED = "shared"
    DEDICATED = "dedicated"


class HostState(StrEnum):
    """`working`: given shards. `draining`: gives its shards to others, and is given none. `leaving`: that, and then it ends."""

    WORKING = "working"
    DRAINING = "draining"
    LEAVING = "leaving"


class HostView(msgspec.Struct, frozen=True):
    """One host as its supervisor sees it. `silent_s`: since it was last heard; `lag`: messages that wait for it."""

    name: str
    pid: int
    state: HostState
    shards: list[int]
    devices: int
    lag: int
    silent_s: float


class HostsView(msgspec.Struct, frozen=True):
    """All hosts. `wanted`: how many are kept alive; `moving`: shards on their way to a host.

    `dedicated`: shards that are to have a host with nothing else on it, each of which is wanted beside the others.
    """

    wanted: int
    hosts: list[HostView]
    moving: list[int]
    dedicated: list[int] = []


class HostAct(StrEnum):
    LIST = "list"
    ADD = "add"
    DRAIN = "drain"
    RESUME = "resume"
    REMOVE = "remove"


class HostOrder(msgspec.Struct, frozen=True):
    """Asked on `subjects.HOST_ORDERS`; answered by a `HostsView` as soon as the order stands, not when it is carried out."""

    act: HostAct
    host: str = ""


_decoder: Final = msgspec.json.Decoder(HostOrder)


def decode_order(data: bytes) -> HostOrder:
    """Decode an order; raises InvalidInput for anything else."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"an order to the hosts cannot be read: {error}") from error
