"""Messages by the time at which they were stored, whatever is missing between and whoever else is in the stream."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.bus import StreamState
from runtime.follower import StreamMessage
from runtime.stream_search import first_since, stored_between

pytestmark = pytest.mark.clause("9.2a")


@dataclass
class Stream:
    messages: list[StreamMessage]
    looked: int = 0

    async def stream_state(self, stream: str) -> StreamState:
        first = self.messages[0].sequence if self.messages else 0
        last = self.messages[-1].sequence if self.messages else 0
        return StreamState(first, last, len(self.messages), 0, 0)

    async def next_message(self, stream: str, subject: str, sequence: int) -> StreamMessage | None:
        self.looked += 1
        return next((m for m in self.messages if m.sequence >= sequence and m.subject == subject), None)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Of two subjects, with holes, in order of time."""
    steps = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9), st.sampled_from("ab")), max_size=40))
    sequence, stored_us, messages = 0, 100, []
    for step, later_us, subject in steps:
        sequence, stored_us = sequence + step, stored_us + later_us
        messages.append(StreamMessage(subject, sequence, b"", stored_us))
    return Stream(messages)


@given(streams(), st.integers(90, 300))
async def test_the_first_since_is_found_with_few_looks(stream: Stream, time_us: int) -> None:
    expected = next((m for m in stream.messages if m.subject == "a" and m.stored_us >= time_us), None)
    assert await first_since(stream, "S", "a", time_us) == expected
    assert stream.looked <= 9


@given(streams(), st.integers(90, 300), st.integers(0, 50), st.integers(1, 5))
async def test_what_was_stored_between_comes_in_order_and_no_more_than_wanted(
    stream: Stream, from_us: int, span_us: int, most: int
) -> None:
    found = [message async for message in stored_between(stream, "S", "a", from_us, from_us + span_us, most=most)]
    inside = [m for m in stream.messages if m.subject == "a" and from_us <= m.stored_us <= from_us + span_us]
    assert found == inside[:most]
