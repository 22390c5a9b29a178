"""Messages of a stream by the time at which they were stored: a search in halves, by single messages. Clause 9.2a.

JetStream finds a message by sequence. Sequences rise with the times of storing, but for a clock that was set back: there a
search may end at another message near by, and finds less, never something else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from runtime.bus import StreamState
from runtime.follower import StreamMessage


class SearchedBus(Protocol):
    """What is needed of `runtime.bus.Bus`."""

    async def stream_state(self, stream: str) -> StreamState: ...
    async def next_message(self, stream: str, subject: str, sequence: int) -> StreamMessage | None: ...


async def first_since(bus: SearchedBus, stream: str, subject: str, time_us: int) -> StreamMessage | None:
    """The first message of a subject (wildcards too) that was stored at `time_us` or later; about 24 are looked at."""
    state = await bus.stream_state(stream)
    least, beyond = max(state.first_sequence, 1), state.last_sequence + 1
    found = None
    while least < beyond:
        middle = (least + beyond) // 2
        message = await bus.next_message(stream, subject, middle)
        if message is None or message.sequence >= beyond:
            beyond = middle
        elif message.stored_us < time_us:
            least = message.sequence + 1
        else:
            found, beyond = message, middle
    return found


async def stored_between(
    bus: SearchedBus, stream: str, subject: str, from_us: int, until_us: int, *, most: int
) -> AsyncIterator[StreamMessage]:  # fmt: skip
    """At most so many messages of a subject, in order, that were stored in [from_us, until_us]."""
    message = await first_since(bus, stream, subject, from_us)
    while message is not None and message.stored_us <= until_us and most > 0:
        yield message
        most -= 1
        message = await bus.next_message(stream, subject, message.sequence + 1)
