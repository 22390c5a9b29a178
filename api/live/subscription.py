"""One client of a live stream: a bounded queue of ready-made Server-Sent Events.

What enters the queue leaves it, in order. When the client is too slow the queue is closed, the client gets what was
in it and then a final `overflow` event: it is never silently thinned.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

MAX_EVENTS: Final = 2_000
MAX_BYTES: Final = 8 * 2**20

JUDGED_ANEW: Final = ("judged-anew", "what you may see has changed: connect again with Last-Event-ID to go on")


def sse(event: str, data: bytes, sequence: int | None = None) -> bytes:
    """The wire form of one event; `data` is one line of JSON."""
    identity = b"" if sequence is None else b"id: %d\n" % sequence
    return b"%sevent: %s\ndata: %s\n\n" % (identity, event.encode(), data)


class Subscription:
    """See module. `select` turns what the feed prepared of a message into an event for this client, or None.

    `heartbeat` makes its heartbeat event, the same for all clients of a feed with these `subjects`. `after` is the
    sequence it has seen: nothing up to there is offered again.
    """

    def __init__(
        self,
        subjects: frozenset[str] | None,
        select: Callable[[Any], bytes | None],
        heartbeat: Callable[[], bytes],
        *,
        max_events: int = MAX_EVENTS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.subjects = subjects  # None: all of the feed's
        self.holder = ""  # whose it is: one holder's clients take turns to catch up
        self.after = 0
        self.is_bounded = True  # while it catches up the sender is held back instead
        self._select = select
        self.heartbeat = heartbeat
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._ready = asyncio.Event()
        self._is_closed = False
        self.has_overflowed = False
        # of a caller with grants that do not count in an emergency: whether it was judged in one (`Feed.end_judged_else`)
        self.is_in_emergency: bool | None = None
        self.is_limited = False  # what it may get depends on how sensitive each record is: see `Feed.end_limited`
        self.on_drained: Callable[[], None] = lambda: None

    def wants(self, subject: str) -> bool:
        return self.subjects is None or subject in self.subjects

    @property
    def is_filling(self) -> bool:
        """Whether half of the queue is in use."""
        return len(self._queue) > self._max_events // 2 or self._queued_bytes > self._max_bytes // 2

    def offer(self, sequence: int, prepared: Any) -> None:
        """Queue what concerns this client of the message at `sequence`, unless it had that already."""
        if sequence <= self.after or self._is_closed:
            return
        event = None if prepared is None else self._select(prepared)
        if event is not None and not self.put(event):
            return
        self.after = sequence

    def put(self, event: bytes) -> bool:
        """Queue an event; False when the queue is closed or just overflowed."""
        if self._is_closed:
            return False
        is_full = len(self._queue) >= self._max_events or self._queued_bytes + len(event) > self._max_bytes
        if self.is_bounded and is_full and self._queue:
            self._overflow()
            return False
        self._queue.append(event)
        self._queued_bytes += len(event)
        self._ready.set()
        return True

    def greet(self, event: bytes) -> None:
        """Put an event before all others."""
        self._queue.appendleft(event)
        self._queued_bytes += len(event)
        self._ready.set()

    def end(self, code: str, detail: str) -> None:
        """A last event, `end`, says why there are no more."""
        self.put(sse("end", msgspec.json.encode({"code": code, "detail": detail})))
        self.close()

    def close(self) -> None:
        """No more events; `take` gives what is queued and then None."""
        self._is_closed = True
        self._ready.set()

    async def take(self) -> bytes | None:
        """All events that wait, as one chunk; None at the end."""
        await self._ready.wait()
        if not self._queue:
            return None
        chunk = b"".join(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        if not self._is_closed:
            self._ready.clear()
        self.on_drained()
        return chunk

    def _overflow(self) -> None:
        self.has_overflowed = True
        detail = {
            "detail": "this client reads too slowly; connect again with Last-Event-ID to go on",
            "last_sequence": self.after,
        }
        self._queue.append(sse("overflow", msgspec.json.encode(detail)))
        self.close()
