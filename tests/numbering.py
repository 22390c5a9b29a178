"""Senders that number what they say, and a door that judges it by what it has stored. For tests of replays."""

from __future__ import annotations

from typing import Final

from domain.ports import Receipt
from domain.readings import ReadingBatch
from runtime.replays import DOUBT_S, Columns, Replays

LONG: Final = DOUBT_S + 1.0
NOW_US: Final = 10**12
S: Final = 1_000_000
NEW, REPEATED, REPLAYED = "new", "repeated", "replayed"


def message(numbers: list[int], at_us: int | list[int], *, source: int = 7, value: float = 1.0) -> ReadingBatch:
    return ReadingBatch.of(handle=source, metric=1, time_us=at_us, value=value, source=source, sequence=numbers)


class Door:
    """Judges, and stores what is new at once."""

    def __init__(self, replays: Replays | None = None) -> None:
        self.replays = replays or Replays(0.0)
        self.stream: list[tuple[ReadingBatch, int]] = []

    def send(self, numbers: list[int], at_us: int | list[int], *, arrives_us: int = NOW_US, now_s: float = LONG, **more) -> str:
        readings = message(numbers, at_us, **more)
        columns = Columns.of(readings)
        judged = self.replays.judge(columns, [0], [arrives_us], now_s)
        if judged.replayed:
            return REPLAYED
        if judged.repeated:
            assert judged.repeated[0].readings == len(numbers)
            return REPEATED
        self.stream.append((readings, arrives_us))
        self.replays.stored(columns, arrives_us)
        at = Receipt(3, len(self.stream), len(numbers))
        self.replays.remember(judged.lines.tolist(), judged.digests.tolist(), at, [len(numbers)])
        return NEW

    def count(self, first: int, last: int, **more) -> None:
        assert {self.send([number], 1_000 + number, **more) for number in range(first, last + 1)} == {NEW}


class Timeless(Door):
    """A sender that knows neither time nor `boot`: readings have the time at which they come."""

    def say(self, number: int, at_s: float, *, value: float = 1.0) -> str:
        at_us = int(at_s * S)
        return self.send([number], at_us, arrives_us=at_us, value=value)


def on_again() -> Timeless:
    """A door that knows of 3,000 messages of a monitor; then that was switched off and on, and has said ten."""
    door = Timeless()
    door.send(list(range(1, 3_001)), 100 * S, arrives_us=100 * S)
    assert {door.say(number, 200 + number) for number in range(1, 11)} == {NEW}
    return door
