"""The post: `tell` and `ask` for actors, wherever they are.

An address says nothing of a place. An actor of this very process is reached without the bus, any other through its
mailbox, a subject that whoever holds the actor answers. Both take the same bytes, so both answer alike; that is why
the nearer way is encoded too.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, Final, Protocol

import msgspec

from domain import subjects
from domain.errors import Unavailable
from domain.ids import Address
from domain.messages import Control, DescribeActor, Posted, Tell, encode

ASK_S: Final = 2.0
TELL_S: Final = 10.0
_TRY_S: Final = 3.0  # a message that meets a shard on its way to another host may be lost: do not wait for it long
_RETRY_S: Final = 0.2


class Mail(Protocol):
    """The bus, as the post uses it."""

    async def ask(self, subject: str, payload: bytes, timeout_s: float) -> bytes: ...


class Residents(Protocol):
    """The actors of this process; see `actors.mailboxes.Mailboxes`."""

    def holds(self, hospital_id: str) -> bool: ...
    async def receive(self, address: Address, payload: bytes) -> bytes: ...


class Post:
    """See module. `here` are the actors of this process, if it has any."""

    def __init__(self, bus: Mail, here: Residents | None = None) -> None:
        self._bus = bus
        self._here = here

    async def ask(self, address: Address, message: DescribeActor, timeout_s: float = ASK_S) -> dict[str, Any]:
        """Ask an actor and return its answer.

        Raises NotFound (no such actor), InvalidInput (its kind does not understand that), Unavailable (nobody holds its
        hospital now, or no answer in time).
        """
        answer: dict[str, Any] = msgspec.json.decode(await self._carry(address, encode(message), timeout_s))
        return answer

    async def tell(
        self, address: Address, message: Control, *, message_id: str | None = None, timeout_s: float = TELL_S
    ) -> Posted:
        """Tell an actor something; returns once it is fsynced in the stream of the actor's shard.

        Tried again, under the same id, until `timeout_s` is over. Whoever may tell again after that, or after a crash,
        gives a `message_id` of its own: under one id an actor is told once, as long as the stream remembers ids.
        Errors as `ask`; after Unavailable the message may or may not be kept.
        """
        told, loop = encode(Tell(message_id or uuid.uuid4().hex, message)), asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while True:
            try:
                answer = await self._carry(address, told, min(_TRY_S, deadline_s - loop.time()))
                return msgspec.json.decode(answer, type=Posted)
            except Unavailable:
                if loop.time() + _RETRY_S >= deadline_s:
                    raise
                await asyncio.sleep(_RETRY_S)

    async def _carry(self, address: Address, payload: bytes, timeout_s: float) -> bytes:
        if self._here is None or not self._here.holds(address.hospital_id):
            return await self._bus.ask(subjects.actor(address), payload, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._here.receive(address, payload)
        except TimeoutError:
            raise Unavailable(f"no answer from {address} within {timeout_s:g} s") from None
