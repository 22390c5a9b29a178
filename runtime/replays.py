"""Replays: messages that were captured and are sent again later than any honest sender would.

Of each source (whoever numbers readings: a gateway, or a device itself) it is known which numbers are in the stream: the
highest, and the gaps below it, exactly; and the last messages, by a digest. Only what the stream acknowledged counts. So a
message none of whose numbers is new is

- *repeated*, when it is one of the last `RECENT` of its source: who did not see the acknowledgement says it again, the same
  to the bit. It is answered with the first receipt, and not stored. One that comes more than `MOST_TIMES` is a replay.
- late or out of order, when a number of it lies in a gap: it never came before, and is taken, however old it is.
- of a sender that counts anew, when it bears a time later than all before it. What was numbered before then, and is not
  later, is old from then on. A sender that knows no time states a higher `boot`, which makes its numbers higher.
- of a sender that began again and knows neither time nor `boot`: its numbers are among the first `BEGINNING`, they bear no
  time, and nothing new of its source was stored for `SILENCE_US`. It is taken, and told as a security event: a monitor that
  was switched off and on is watched again at once. Of what it numbers without times up to where it was before, all that it
  skips stays old once it is past that, and what is `BEGINNING` ahead is old until then. If it got past that by a jump, which
  may be somebody else's, then in a silence as before it *resumes*: it goes on behind where it was, in this count and no other.
- else *replayed*: refused.

What this cannot tell: a capture of a sender without times and `boot`, sent in order from its first message on, in a silence,
is to the bit a monitor that was switched off and on. It is taken whole, and told once for each silence; a `boot`, or times in
the messages, are the remedy.

A message with an unnumbered reading is judged by nobody here: the cell knows doubles of the last readings. Judging is a
compiled loop over a group commit. After a start the digests are gone, so for `DOUBT_S` what may be one of the last by its
numbers is taken, and left to the cell. What is ahead of the clock counts as of now: a sender whose clock was set right goes on.
So it does where the platform's own clock is set back: nothing that is known stays ahead of it (`clock_shows`).
Clauses 5.4a, 9.4; docs/decisions/0034-replays-are-known-by-number.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from domain.bounded import keep_newest
from domain.ports import Receipt
from domain.readings import ROW, ReadingBatch
from runtime.replay_loops import is_silent, judge, note, remember, resumes

RECENT: Final = 128
MOST_TIMES: Final = 8
DOUBT_S: Final = 600.0
BEGINNING: Final = 1_000
SILENCE_US: Final = 5_000_000  # less than any monitor takes to start; who repeats what is unanswered is known by digest
_LIVE_US: Final = 60_000_000  # so long after its arrival a message is in the stream, or its sender was told that it is not
MOST_GAPS: Final = 64  # of a source; of more the oldest is forgotten, and what comes for it refused
_MOST_LINES: Final = 50_000  # of sources whose last messages are known
_MOST_AGAIN: Final = 10_000
_FIRST: Final = 1_024
_NEVER_SHOWN: Final = 2**62  # what is known may be of a clock that was ahead when it was written
_SET_BACK_US: Final = 1_000_000  # how soon after the clock was set back that is seen, while anything comes


@dataclass(frozen=True, slots=True)
class Columns:
    """What of readings tells whether they came before: one-dimensional, contiguous, of equal length, one place a reading.

    `sequence` as signed, so that what is beyond 2^63 counts as none; `time_us` in UTC. Columns may be views that nobody may
    write.
    """

    source: NDArray[np.uint32]
    sequence: NDArray[np.int64]
    time_us: NDArray[np.int64]
    handle: NDArray[np.uint32]
    metric: NDArray[np.uint16]
    value: NDArray[np.float64]

    @classmethod
    def of(cls, data: ReadingBatch | bytes) -> Columns:
        """Of a batch, or of rows of `domain.readings.ROW`. Raises ValueError when the bytes are no whole number of rows."""
        rows = np.frombuffer(data, ROW) if isinstance(data, bytes) else None
        names = ("source", "sequence", "time_us", "handle", "metric", "value")
        columns = [np.ascontiguousarray(getattr(data, name) if rows is None else rows[name]) for name in names]
        columns[1] = columns[1].view(np.int64)
        return cls(*columns)

    def __len__(self) -> int:
        return len(self.source)


@dataclass(slots=True)
class Judged:
    """Messages in order: the line (the source of the first reading) and digest of each; and those that are not new.

    `repeated`: by place, the first receipt; `replayed`: a number of it that was used. `anew`: new, and the first of a sender
    that began again.
    """

    lines: NDArray[np.uint32]
    digests: NDArray[np.uint64]
    repeated: dict[int, Receipt]
    replayed: dict[int, int]
    anew: set[int]


class Replays:
    """See module. `monotonic_s` is the event loop's time, at which it begins to know digests."""

    def __init__(self, monotonic_s: float) -> None:
        self._began_s = monotonic_s
        self._clock_us = _NEVER_SHOWN  # the platform's clock, when it was looked at last
        self._read_us = 0  # newest arrival of what is read at the start
        self.highest = np.zeros(_FIRST, np.int64)  # by source, as all of these
        self.newest_us = np.zeros(_FIRST, np.int64)
        self.epoch_us = np.zeros(_FIRST, np.int64)  # newest before it counted anew
        self.before = np.zeros(_FIRST, np.int64)  # highest before it counted anew
        self.jumped_from = np.zeros(_FIRST, np.int64)  # highest when a number beyond `before` came; `before` until one does
        self.slot = np.full(_FIRST, -1, np.int32)  # of its gaps
        self.used = np.zeros(1, np.int64)
        self.low, self.high = np.zeros((16, MOST_GAPS), np.int64), np.zeros((16, MOST_GAPS), np.int64)
        self.gaps = np.zeros(16, np.int32)
        self.position = 0  # all of the stream up to here is known
        self._line = np.full(_FIRST, -1, np.int32)  # of a source: the row of its last messages below
        self._lines = np.zeros(1, np.int64)  # how many rows were ever given; of more than there may be the first again
        self._owner = np.zeros(16, np.uint32)
        self._next = np.zeros(16, np.int32)
        self._digests = np.zeros((16, RECENT), np.int64)
        self._places = np.zeros((16, RECENT), np.int64)  # sequence in the stream
        self._shard = np.zeros((16, RECENT), np.int64)
        self._rows = np.zeros((16, RECENT), np.int64)
        self._again: dict[tuple[int, int], int] = {}  # line and digest -> how often it came again
        self._repeats: dict[int, tuple[int, int]] = {}  # line -> when it said again what it had said, and with what number
        self._anew_us: dict[int, int] = {}  # line -> when it began again: what is on its way with that is not told again

    def clock_shows(self, now_us: int) -> None:
        """The platform's clock, as it is; to be told before each `judge`.

        If it went back, what is known to be of later than now can only be of the time when it was ahead: it is of just before
        now, so that nobody is refused until the clock has come to there again.
        """
        if now_us < self._clock_us:
            self._put_back(slice(None), now_us)
            self._repeats.clear()
            self._anew_us.clear()
        self._clock_us = now_us

    def stream_shows(self, arrival_us: int) -> None:
        """When a frame came, of those that were there at the start, in order, before doors are open: the same as a clock.

        Doors publish beside each other, so one may be a little older than the one before it.
        """
        if arrival_us + _LIVE_US < self._read_us:
            self._put_back(slice(None), arrival_us)
            self._read_us = arrival_us
        self._read_us = max(self._read_us, arrival_us)

    def _put_back(self, of: slice | NDArray[np.uint32], now_us: int) -> None:
        """What is just being judged came up to `_LIVE_US` ago, and has to be later than a beginning of a clock ahead."""
        for times_us, wait_us in ((self.newest_us, _SET_BACK_US), (self.epoch_us, _LIVE_US)):
            known_us = times_us[of]
            times_us[of] = np.where(known_us > now_us, now_us - wait_us, known_us)

    # ---- before it is stored

    def judge(self, columns: Columns, starts: Sequence[int], arrivals_us: Sequence[int], now_s: float) -> Judged:
        """Judge messages whose readings stand one behind another, each beginning at its `start`.

        `starts` rise from 0, and each message has a reading: neither is looked at. `arrivals_us`: when each came, as many as
        `starts`. A reading of that very time states none of its own. `now_s`: the event loop's time. What is judged new is
        known only once it is told to `stored`; what is judged repeated or to count anew is noted here.
        """
        self.reach(columns.source)
        bounds = np.array([*starts, len(columns)], np.int64)
        arrivals = np.array(arrivals_us, np.int64)
        digests, suspect = np.zeros(len(starts), np.uint64), np.zeros(len(starts), np.int32)
        judge(
            columns.source, columns.sequence, columns.time_us, columns.handle, columns.metric, columns.value.view(np.int64),
            bounds, arrivals, BEGINNING, self.highest, self.epoch_us, self.before, digests, suspect,
        )  # fmt: skip
        judged = Judged(columns.source[bounds[:-1]], digests, {}, {}, set())
        for number in np.flatnonzero(suspect).tolist():
            rows = slice(int(bounds[number]), int(bounds[number + 1]))
            self._look_at(judged, number, columns, rows, int(arrivals[number]), now_s)
        return judged

    def _look_at(
        self, judged: Judged, number: int, columns: Columns, rows: slice, arrival_us: int, now_s: float
    ) -> None:  # fmt: skip
        """None of the message's numbers is beyond the highest, or it may be of before its sender began again."""
        key = int(judged.lines[number]), int(judged.digests[number])
        receipt = self._receipt_of(*key)
        if receipt is not None and self._says_the_same_anew(key[0], columns, rows, arrival_us):
            self._note_anew(judged, number, arrival_us)
            return
        if receipt is not None:
            times = self._again.get(key, 0) + 1
            keep_newest(self._again, key, times, _MOST_AGAIN)
            if times <= MOST_TIMES:
                judged.repeated[number] = receipt
                return
        elif self._may_be_new(columns, rows, arrival_us) or (
            now_s - self._began_s < DOUBT_S and self._may_be_recent(columns, rows)
        ):
            return
        elif self._counts_anew(columns, rows, arrival_us):
            self._note_anew(judged, number, arrival_us)
            return
        judged.replayed[number] = int(columns.sequence[rows.start])

    def _says_the_same_anew(self, line: int, columns: Columns, rows: slice, arrival_us: int) -> bool:
        """Whether what seems repeated is of a sender that began again and has the same to say: such come one after another.

        Who repeats what is unanswered does it at once, and begins with the same number if it has to do it again.
        """
        number = int(columns.sequence[rows.start])
        since_us, first = self._repeats.get(line, (0, 0))
        if since_us <= self.newest_us[columns.source[rows.start]]:  # something new came meanwhile
            keep_newest(self._repeats, line, (arrival_us, number), _MOST_AGAIN)
            return False
        return number > first and arrival_us - since_us >= SILENCE_US and self._counts_anew(columns, rows, arrival_us)

    def _counts_anew(self, columns: Columns, rows: slice, arrival_us: int) -> bool:
        """Whether a message is of a sender that knows no time and, after a silence, begins its count or resumes it."""
        if (columns.time_us[rows] != arrival_us).any():
            return False
        return all(
            is_silent(of, arrival_us, SILENCE_US, self.newest_us)
            and (number <= BEGINNING or resumes(number, of, self.highest, self.before, self.jumped_from))
            for of, number in zip(columns.source[rows].tolist(), columns.sequence[rows].tolist(), strict=True)
        )

    def _note_anew(self, judged: Judged, number: int, arrival_us: int) -> None:
        line = int(judged.lines[number])
        if arrival_us - self._anew_us.get(line, -SILENCE_US) >= SILENCE_US:
            judged.anew.add(number)
        keep_newest(self._anew_us, line, arrival_us, _MOST_AGAIN)

    def _may_be_new(self, columns: Columns, rows: slice, arrival_us: int) -> bool:
        source, sequence, time_us = columns.source[rows], columns.sequence[rows], columns.time_us[rows]
        is_stated, newest_us = time_us != arrival_us, self.newest_us[source]
        is_later = is_stated & (np.minimum(time_us, arrival_us) > newest_us)
        shares = is_stated & (sequence == self.highest[source]) & (time_us >= newest_us)  # its number with the message before
        has_passed = self.highest[source] > self.before[source]  # where it was when it began again, if it did
        is_of_now = np.where(is_stated, time_us > self.epoch_us[source], ~has_passed | (sequence > self.before[source]))
        return bool(is_later.any() or shares.any()) or self._lie_in_gaps(source[is_of_now], sequence[is_of_now])

    def _may_be_recent(self, columns: Columns, rows: slice) -> bool:
        """Whether, by its numbers, it may be one of the last messages, if they were as large."""
        behind = self.highest[columns.source[rows]] - columns.sequence[rows]
        return bool((behind <= RECENT * len(behind)).all())

    def _receipt_of(self, line: int, digest: int) -> Receipt | None:
        row = int(self._line[line])
        if row < 0:
            return None
        found = np.flatnonzero(self._digests[row] == np.uint64(digest).astype(np.int64))
        if not len(found):
            return None
        at = int(found[0])
        return Receipt(int(self._shard[row, at]), int(self._places[row, at]), int(self._rows[row, at]))

    def _lie_in_gaps(self, source: NDArray[np.uint32], sequence: NDArray[np.int64]) -> bool:
        """Whether any of these numbers never came."""
        slots = self.slot[source]
        for slot in np.unique(slots[slots >= 0]).tolist():
            numbers, count = sequence[slots == slot], int(self.gaps[slot])
            low, high = self.low[slot, :count], self.high[slot, :count]
            if ((numbers[:, None] >= low) & (numbers[:, None] <= high)).any():
                return True
        return False

    # ---- once it is stored

    def stored(self, columns: Columns, arrival_us: int, *, is_past: bool = False) -> None:
        """These readings are in the stream, where they came at `arrival_us`. Told again it changes nothing.

        `is_past`: others were stored and told of meanwhile.
        """
        self.reach(columns.source)
        at = 0
        while True:
            at = note(
                columns.source, columns.sequence, columns.time_us, at, arrival_us, BEGINNING, SILENCE_US, _LIVE_US,
                is_past, self.highest, self.newest_us, self.epoch_us, self.before, self.jumped_from, self.slot, self.used,
                self.low, self.high, self.gaps,
            )  # fmt: skip
            if at == len(columns):
                break
            self.low, self.high = _longer(self.low), _longer(self.high)
            self.gaps = np.append(self.gaps, np.zeros_like(self.gaps))
        if arrival_us > self._clock_us + _LIVE_US:  # it was on its way, or lay in the stream, when the clock was set back
            self._put_back(columns.source, self._clock_us)

    def remember(self, lines: Sequence[int], digests: Sequence[int], at: Receipt, rows: Sequence[int]) -> None:
        """These messages are in the stream, whole; the last of them `at` this place. `rows`: how many readings each has.

        `lines` and `digests` as `judge` gave them, as many as `rows`.
        """
        wanted = min(_MOST_LINES, int(self._lines[0]) + len(lines))
        while len(self._owner) < wanted:
            self._owner = np.append(self._owner, np.zeros_like(self._owner))
            self._next = np.append(self._next, np.zeros_like(self._next))
            for name in ("_digests", "_places", "_shard", "_rows"):
                setattr(self, name, _longer(getattr(self, name)))
        remember(
            np.array(lines, np.uint32), np.array(digests, np.uint64).view(np.int64), np.array(rows, np.int64), at.shard,
            at.stream_sequence, self._line, self._lines, self._owner, self._next, self._digests, self._places, self._shard,
            self._rows,
        )  # fmt: skip

    def reach(self, sources: NDArray[np.uint32]) -> None:
        """Have a place for each of these sources; memory grows with the highest, 48 bytes for each up to there."""
        most = int(sources.max(initial=0))
        if most < len(self.highest):
            return
        more = max(most + 1, 2 * len(self.highest)) - len(self.highest)
        for name in ("highest", "newest_us", "epoch_us", "before", "jumped_from"):
            setattr(self, name, np.append(getattr(self, name), np.zeros(more, np.int64)))
        self.slot = np.append(self.slot, np.full(more, -1, np.int32))
        self._line = np.append(self._line, np.full(more, -1, np.int32))


def _longer(table: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([table, np.zeros_like(table)])
