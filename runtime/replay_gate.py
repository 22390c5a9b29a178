"""Where an Intake asks `runtime.replays` of a group commit, and tells it what the stream has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np

from domain.errors import RejectedInput
from domain.ports import Receipt
from domain.readings import ReadingBatch
from runtime.intake_group import Submission
from runtime.intake_lanes import IntakeCounters
from runtime.replays import RECENT, Columns, Judged, Replays

REPLAYED = "replayed"
_OF_THE_START: Final = 0  # no ticket of what is being published


class ReplayGate:
    """See module. `counters`: of the Intake; doors count what they refuse by reason."""

    def __init__(self, replays: Replays, counters: IntakeCounters) -> None:
        self._replays = replays
        self._counters = counters
        self._newest = replays.position  # what the stream acknowledged last
        self._under_way: dict[int, int] = {}  # by ticket, of what is being published: what was newest when it began
        self._tickets = 0

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """While something is on its way; all before it has arrived is known, when nothing older is."""
        self._tickets += 1
        ticket = self._tickets
        self._under_way[ticket] = self._newest
        try:
            yield
        finally:
            del self._under_way[ticket]
            self._move()

    def known_to(self, sequence: int, last: int) -> None:
        """Of what the stream had at the start, up to `last`, all up to `sequence` is known by now. `last` itself ends it."""
        self._under_way[_OF_THE_START] = sequence
        if sequence >= last:
            del self._under_way[_OF_THE_START]
            self._newest = max(self._newest, last)
        self._move()

    def _move(self) -> None:
        self._replays.position = min(self._under_way.values(), default=self._newest)

    def admitted(
        self, group: list[Submission], now_s: float, now_us: int
    ) -> tuple[list[Submission], list[Submission]]:  # fmt: skip
        """Which of a group are to be stored, and which not: those are answered, with a receipt or a RejectedInput.

        Those to be stored keep their order, and are marked with what `stored` needs of them. `now_s`: the loop's time;
        `now_us`: the clock's.
        """
        self._replays.clock_shows(now_us)
        refused: list[Submission] = []
        packed = [one for one in group if isinstance(one.parts[0][1], bytes)] if len(group) > 1 else []
        if packed:
            data = [one.parts[0][1] for one in packed]
            ends = np.cumsum([one.rows for one in packed]).tolist()
            columns = Columns.of(b"".join(data))  # type: ignore[arg-type]  # as chosen
            self._judge(columns, packed, [0, *ends[:-1]], now_s, refused)
        for one in group if not packed else [one for one in group if not isinstance(one.parts[0][1], bytes)]:
            self._judge(_columns_of(one), [one], [0], now_s, refused)
        gone = set(map(id, refused))
        return [one for one in group if id(one) not in gone] if refused else group, refused

    def _judge(
        self, columns: Columns, messages: list[Submission], starts: list[int], now_s: float, refused: list[Submission]
    ) -> None:
        judged = self._replays.judge(columns, starts, [one.arrival_us for one in messages], now_s)
        for message, line, digest in zip(messages, judged.lines.tolist(), judged.digests.tolist(), strict=True):
            message.line, message.digest = line, digest
        for number in judged.anew:
            messages[number].counts_anew = True
        for number, receipt in judged.repeated.items():
            self._counters.repeated += 1
            _answer(messages[number], receipt)
            refused.append(messages[number])
        for number in judged.replayed:
            messages[number].failed(_refusal(judged, number))
            refused.append(messages[number])

    def look_at(
        self, readings: ReadingBatch, arrival_us: int, now_s: float, now_us: int
    ) -> tuple[Receipt | None, bool]:  # fmt: skip
        """The receipt of readings that came before, None of such as are to be stored; and whether their sender counts anew
        with them. There is at least one reading. `arrival_us`: when they came first; `now_s`: the loop's time, `now_us`:
        the clock's. Raises RejectedInput of a replay.
        """
        self._replays.clock_shows(now_us)
        judged = self._replays.judge(Columns.of(readings), [0], [arrival_us], now_s)
        if judged.replayed:
            raise _refusal(judged, 0)
        self._counters.repeated += bool(judged.repeated)
        return judged.repeated.get(0), bool(judged.anew)

    def stored(self, batches: Sequence[ReadingBatch], arrival_us: int, at: Receipt, whole: Sequence[Submission]) -> None:
        """The stream has these readings `at` that place, in one frame; and with them all of the messages `whole`."""
        self._newest = max(self._newest, at.stream_sequence)
        for batch in batches:
            self._replays.stored(Columns.of(batch), arrival_us)
        if whole:
            self._replays.remember([one.line for one in whole], [one.digest for one in whole], at, [one.rows for one in whole])


def _columns_of(message: Submission) -> Columns:
    parts = [data for _, data, _ in message.parts]
    if len(parts) == 1:
        return Columns.of(parts[0])
    return Columns.of(ReadingBatch.concat(ReadingBatch.from_rows(one) if isinstance(one, bytes) else one for one in parts))


def _answer(message: Submission, receipt: Receipt) -> None:
    if not message.future.done():
        message.future.set_result(receipt)


def _refusal(judged: Judged, number: int) -> RejectedInput:
    return RejectedInput(
        REPLAYED,
        f"source {int(judged.lines[number])} used number {judged.replayed[number]} before, and the message is none of its last "
        f"{RECENT}: nothing is stored. Who counts anew states a later time, or a higher 'boot'",
    )
