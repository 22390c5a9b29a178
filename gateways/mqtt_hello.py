"""What a device says of itself in CONNECT, and who it is by that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from domain.errors import Unauthenticated, Unavailable, VitalgridError
from domain.ports import Sender, Shown
from gateways.listener import Guest
from gateways.mqtt_packets import Connect, ConnectCode, Will
from gateways.mqtt_parts import DoorOfConnections

logger = logging.getLogger(__name__)

REVOKED: Final = "revoked"
_WILL_TEXT_CHARS: Final = 200


class Refused(Exception):
    """A CONNECT is answered with this code; `why` in one word that counters use."""

    def __init__(self, code: ConnectCode, why: str) -> None:
        super().__init__(why)
        self.code, self.why = code, why


class Known(NamedTuple):
    """Who somebody is, as of which of the door's `changes`, and which of its `turns` it has: a later one takes over."""

    sender: Sender
    good_at: int
    turn: int


def shown_by(packet: Connect, certificate: str | None) -> Shown:
    """What may be the token: the password, else the user name (ThingsBoard's devices send it there)."""
    found = [] if packet.password is None else [packet.password.decode(errors="replace")]
    tokens = tuple(token for token in (*found, packet.username or "") if token)
    return Shown(certificate, tokens, is_named=bool(packet.username))


def will_text(will: Will | None) -> str | None:
    """A will's payload as the detail of an event: its beginning, if it is text."""
    if will is None:
        return None
    text = will.payload[: 4 * _WILL_TEXT_CHARS].decode(errors="ignore")
    return "".join(char for char in text if char.isprintable())[:_WILL_TEXT_CHARS] or None


async def who_shows(door: DoorOfConnections, guest: Guest, shown: Shown, is_waiting: Callable[[], bool]) -> Known | None:
    """Who it is, after a wait if its identity is in conflict. None when `is_waiting` says that nobody waits for it any more.

    Raises Refused; who tries many is answered late.
    """
    asked_at, turn = door.changes, next(door.turns)
    try:
        sender = await door.identities.sender_of(shown)
    except Unauthenticated as error:
        logger.info("a connection shows nothing that is good here: %s", error)
        if is_waiting():
            await guest.delay()
        why = "wrong-token" if error.code == Unauthenticated.code else error.code
        raise Refused(ConnectCode.NOT_AUTHORISED, why) from None
    except VitalgridError:
        raise Refused(ConnectCode.SERVER_UNAVAILABLE, "identities-unavailable") from None
    if not is_waiting():
        return None
    with door.watch.held(sender, guest.address) as wait_s:
        if wait_s is None:
            raise Refused(ConnectCode.SERVER_UNAVAILABLE, "identity-conflict")
        if wait_s == 0.0:
            return Known(sender, asked_at, turn)
        await asyncio.sleep(wait_s)
        good_at = await _still_good(door, sender, asked_at)
    return Known(sender, good_at, next(door.turns)) if is_waiting() else None


async def _still_good(door: DoorOfConnections, sender: Sender, asked_at: int) -> int:
    """As of which of the door's `changes` what a sender came with is good; known before: `asked_at`. Raises Refused."""
    changes = door.changes
    try:
        if await door.identities.revoked([sender]):
            raise Refused(ConnectCode.NOT_AUTHORISED, REVOKED)
    except Unavailable:
        return asked_at  # nothing is known against it
    return changes
