"""Why an event of the access log has no content: an entry of the log itself says which ones an erasure took. Pure.

The entry comes into the tree first, the content goes after it. So an event without content that no entry names was
emptied by somebody else, whoever it was. Clauses 6.1b, 9.3e, 9.3h.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from domain.audit_reading import erased_by
from domain.log_entries import EMPTYING, WRITES, LogRecord

_RANGES: Final = 1_000  # in one entry: of who has been looked at a hundred thousand times there are many

Range = tuple[int, int]  # the first and the last index


class Emptying(msgspec.Struct, frozen=True):
    """The event of such an entry."""

    patient: str  # the opaque key
    erasure: int  # index of the entry of the write that says the patient is erased
    entries: list[Range]
    kind: str = "emptied"


_decode: Final = msgspec.json.Decoder(Emptying).decode


def ranges_of(indices: Iterable[int]) -> list[Range]:
    """Ascending indices, those that are next to each other as one."""
    found: list[Range] = []
    for index in indices:
        if found and found[-1][1] == index - 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return found


def records_of(patient: str, erasure: int, indices: Sequence[int], at: int, at_us: int) -> Iterator[LogRecord]:
    """The records that say that events at these `indices`, ascending, lose their content; `at`: where the first one goes."""
    ranges = ranges_of(indices)
    for start in range(0, len(ranges), _RANGES):
        event = msgspec.json.encode(Emptying(patient, erasure, ranges[start : start + _RANGES]))
        number = at + start // _RANGES
        yield LogRecord(f"emptied-{number}", at_us, EMPTYING, number, msgspec.Raw(event))


class Explanations:
    """What a reader of the whole log, from its beginning on, met of both: events without content, and entries that say why."""

    def __init__(self) -> None:
        self._emptied: list[Range] = []  # ascending
        self.emptied = 0
        self._said: list[Range] = []
        self._erased: dict[int, frozenset[str]] = {}

    def meet_emptied(self, index: int) -> None:
        """An event without content."""
        self.emptied += 1
        if self._emptied and self._emptied[-1][1] == index - 1:
            self._emptied[-1] = (self._emptied[-1][0], index)
        else:
            self._emptied.append((index, index))

    def meet(self, index: int, by: str, event: bytes) -> None:
        """An event that is the one which was logged. An emptying holds for what is before it, if the erasure is."""
        if by == WRITES and (patients := erased_by(event)):
            self._erased[index] = patients
        elif by == EMPTYING:
            try:
                said = _decode(event)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return
            if said.patient in self._erased.get(said.erasure, ()):
                self._said += [one for one in said.entries if one[1] < index]

    def unexplained(self) -> list[Range]:
        """What is without content, and no entry says why."""
        reasons, at = sorted(self._said), 0
        left: list[Range] = []
        for start, last in self._emptied:
            first = start
            while first <= last:
                while at < len(reasons) and reasons[at][1] < first:
                    at += 1
                if at == len(reasons) or reasons[at][0] > last:
                    left.append((first, last))
                    break
                begin, end = reasons[at]
                if begin > first:
                    left.append((first, begin - 1))
                first = end + 1
        return left
