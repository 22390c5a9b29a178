"""The rejects: refused messages with their reason, as operators read them. They live in a stream, newest last.

A reject is known by its stream sequence. Reading is by single messages, so a page looks at no more than `SCANNED`
of them: with a rare filter a page may come back short, or empty, and its `next_before` says where to go on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from domain import subjects
from domain.errors import IntegrityViolation, NotFound
from domain.messages import Reject
from runtime.bus import StreamState
from runtime.follower import StreamMessage

SCANNED: Final = 2_000  # messages that one page looks at, at most
_AT_ONCE: Final = 50
_decoder: Final = msgspec.json.Decoder(Reject)


class RejectStream(Protocol):
    """The part of the bus that reads a stream message by message."""

    async def stream_state(self, stream: str) -> StreamState: ...
    async def get_message(self, stream: str, sequence: int) -> StreamMessage | None: ...


@dataclass(frozen=True, slots=True)
class KeptReject:
    sequence: int
    reject: Reject


@dataclass(frozen=True, slots=True)
class RejectFilter:
    """None means any. `hospital_ids`: rejects of these hospitals only (those of unknown senders belong to none)."""

    reason: str | None = None
    door: str | None = None
    principal: str | None = None
    hospital_ids: frozenset[str] | None = None

    def passes(self, reject: Reject) -> bool:
        return (
            self.reason in (None, reject.reason)
            and self.door in (None, reject.door)
            and self.principal in (None, reject.principal)
            and (self.hospital_ids is None or reject.hospital_id in self.hospital_ids)
        )


@dataclass(frozen=True, slots=True)
class RejectPage:
    """Newest first. `next_before` continues the list; None at its end."""

    rejects: list[KeptReject]
    next_before: int | None


class RejectLog:
    """Reads the rejects stream. Methods raise Unavailable when the stream does not answer."""

    def __init__(self, bus: RejectStream) -> None:
        self._bus = bus

    async def page(
        self, wanted: RejectFilter | None = None, *, since: int = 1, before: int | None = None, limit: int = 50
    ) -> RejectPage:
        """At most `limit` rejects from sequence `since` on that are older than `before`, newest first."""
        wanted = wanted or RejectFilter()
        state = await self._bus.stream_state(subjects.REJECTS_STREAM)
        oldest = max(state.first_sequence, since, 1)
        at = min(state.last_sequence, before - 1 if before is not None else state.last_sequence)
        stop = max(oldest, at - SCANNED + 1)
        found: list[KeptReject] = []
        while at >= stop:
            sequences = range(at, max(stop, at - _AT_ONCE + 1) - 1, -1)
            for kept in await asyncio.gather(*map(self._read, sequences)):
                if kept is None or not wanted.passes(kept.reject):
                    continue
                found.append(kept)
                if len(found) == limit:
                    return RejectPage(found, kept.sequence if kept.sequence > oldest else None)
            at = sequences[-1] - 1
        return RejectPage(found, stop if stop > oldest else None)

    async def get(self, sequence: int) -> KeptReject:
        """One reject. Raises NotFound."""
        kept = await self._read(sequence)
        if kept is None:
            raise NotFound(f"reject {sequence} does not exist, or is older than rejects are kept")
        return kept

    async def _read(self, sequence: int) -> KeptReject | None:
        message = await self._bus.get_message(subjects.REJECTS_STREAM, sequence)
        if message is None:
            return None
        try:
            return KeptReject(sequence, _decoder.decode(message.payload))
        except msgspec.DecodeError as error:
            raise IntegrityViolation(f"reject {sequence} cannot be read back: {error}") from error
