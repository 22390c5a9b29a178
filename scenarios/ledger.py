"""The ledger: every reading that was acknowledged is stored exactly once, or lies among the rejects with a reason.

A reading is known by (source, sequence): the handle of its sender and that sender's running number of readings. The
check is over the sets themselves, not over totals, so that one lost and one doubled reading do not cancel out. The
numbers of a run begin at a base of its own (the microsecond it began at), so that runs on one fleet never meet.
Clauses 5.4c, 8.1, 9.3.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from domain.readings import ReadingBatch

_SHIFT: Final = np.uint64(36)  # sequences below 2^36, sources below 2^28: one key, sorted and compared at C speed
MAX_SEQUENCE: Final = 2**36
_MAX_SOURCE: Final = 2**28
_EXAMPLES: Final = 5

Keys = NDArray[np.uint64]


def keys_of(sources: NDArray[Any], sequences: NDArray[Any]) -> Keys:
    """One number for each (source, sequence). Raises OverflowError beyond 2^28 sources or 2^36 sequences."""
    if len(sources) and (int(sources.max()) >= _MAX_SOURCE or int(sequences.max()) >= MAX_SEQUENCE):
        raise OverflowError(f"the ledger counts sources below {_MAX_SOURCE} and sequences below {MAX_SEQUENCE}")
    return (sources.astype(np.uint64) << _SHIFT) | sequences.astype(np.uint64)


def keys_of_readings(readings: ReadingBatch, base: int = 0) -> Keys:
    """Keys of readings whose sequences begin at `base`; those of earlier runs, below it, are left out."""
    ours = (readings.sequence >= base) & (readings.sequence < base + MAX_SEQUENCE)
    return keys_of(readings.source[ours], readings.sequence[ours] - np.uint64(base))


def sources_of(keys: Keys) -> NDArray[np.uint64]:
    """The source of each key."""
    return keys >> _SHIFT


def split_key(key: int) -> tuple[int, int]:
    """(source, sequence) of one key."""
    return int(key) >> int(_SHIFT), int(key) & (MAX_SEQUENCE - 1)


class Ledger(msgspec.Struct, frozen=True):
    """How a run's books close. `examples`: the first few (source, sequence) that are wrong, by what is wrong."""

    sent: int
    acknowledged: int
    stored: int
    rejected: int
    lost: int
    doubled: int
    unexpected: int
    unacknowledged: int
    examples: dict[str, list[tuple[int, int]]] = {}

    @property
    def balances(self) -> bool:
        return self.lost == 0 and self.doubled == 0 and self.unexpected == 0


def close(sent: Keys, acknowledged: Keys, stored: Keys, rejected: Keys) -> Ledger:
    """Compare the books.

    `sent` and `acknowledged` may name a reading several times (retransmissions); `stored` holds one key for each
    stored row. Not acknowledged but stored is no error: the acknowledgement was lost, not the reading.
    """
    sent_once = np.unique(sent)
    acknowledged_once = np.unique(acknowledged)
    stored_once, times = np.unique(stored, return_counts=True)
    rejected_once = np.unique(rejected)
    kept = np.union1d(stored_once, rejected_once)
    lost = np.setdiff1d(acknowledged_once, kept, assume_unique=True)
    doubled = stored_once[times > 1]
    unexpected = np.setdiff1d(stored_once, sent_once, assume_unique=True)
    unacknowledged = np.setdiff1d(sent_once, acknowledged_once, assume_unique=True)
    wrong = {"lost": lost, "doubled": doubled, "unexpected": unexpected}
    return Ledger(
        sent=len(sent_once), acknowledged=len(acknowledged_once), stored=len(stored_once), rejected=len(rejected_once),
        lost=len(lost), doubled=int((times - 1).sum()), unexpected=len(unexpected), unacknowledged=len(unacknowledged),
        examples={name: [split_key(int(k)) for k in keys[:_EXAMPLES]] for name, keys in wrong.items() if len(keys)},
    )  # fmt: skip
