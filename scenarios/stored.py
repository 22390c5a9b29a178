"""What the platform kept of a run, read back by itself: the lake's own files and the rejects stream.

This looks at the files of one version of the table as they lie, past every query path that could tidy up repeats.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import polars as pl

from domain import subjects
from domain.errors import IntegrityViolation, RejectedInput, Unavailable
from domain.frames import decode_frame
from domain.messages import Reject
from domain.quality import Mark
from domain.readings import ReadingBatch
from runtime.bus import Bus
from runtime.bus_access import BusKey
from runtime.follower import StreamMessage
from runtime.key_provider import provider_in
from runtime.lake import Lake
from runtime.sealed_file import FileSeal
from scenarios.books import ClosedBooks
from scenarios.ledger import MAX_SEQUENCE, Keys, Ledger, close, keys_of, keys_of_readings

_STALLED_S: Final = 60.0  # without a single reading more in the lake; a host that was killed needs that long
_CLOCKS_AGREE_US: Final = 2_000_000  # what differs by less is left to the uncertainty of every clock
_LOOK_EVERY_S: Final = 2.0
_NO_KEYS: Final = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows of a run's senders as they lie in the lake: one key a row; how many bear the mark of a skewed clock; and how
    many were looked up at a time beyond their arrival, which no correction may leave.
    """

    keys: Keys
    clock_skewed: int
    ahead_of_arrival: int
    version: int


def opened(lake_dir: Path) -> Lake:
    """The lake of a data directory on this machine, with the keys beside it for what is sealed. To be read only."""
    return Lake(lake_dir, FileSeal(provider_in(lake_dir.parents[1] / "keys"), writes=False))


def stored_rows(lake_dir: Path, books: ClosedBooks) -> StoredRows:
    """Read the newest version of the lake for everything these senders stored. Blocking."""
    lake = opened(lake_dir)
    state = lake.state()
    from_us, until_us = books.span_us()
    margin_us = 86_400_000_000  # a source whose clock is off states other times; its rows are found all the same
    files = state.files.filter((pl.col("max.time_us") >= from_us - margin_us) & (pl.col("min.time_us") <= until_us + margin_us))
    if files.is_empty():
        return StoredRows(_NO_KEYS, 0, 0, state.view.version)
    rows = (
        lake.scan(files["path"])
        .filter(
            pl.col("sequence") >= books.base,
            pl.col("sequence") < books.base + MAX_SEQUENCE,
            pl.col("source").is_in(pl.Series(books.sources.astype(np.int64)).implode()),
        )
        .select(
            "source", "sequence", "quality", "arrival_us", taken_us=pl.col("time_us") + pl.col("clock_offset_us").fill_null(0)
        )
        .collect(engine="streaming")
    )
    skewed = int(((rows["quality"].to_numpy() & int(Mark.CLOCK_SKEWED)) != 0).sum())
    ahead = rows.filter(pl.col("taken_us") > pl.col("arrival_us") + _CLOCKS_AGREE_US).height
    keys = keys_of(rows["source"].to_numpy(), rows["sequence"].to_numpy() - books.base)
    return StoredRows(keys, skewed, ahead, state.view.version)


async def settled_ledger(
    lake_dir: Path, books: ClosedBooks, rejected: Callable[[int], Keys], stalled_s: float = _STALLED_S
) -> tuple[Ledger, StoredRows]:
    """Close the ledger once the lake has caught up: when nothing is missing, or nothing has come for `stalled_s`.

    A platform that is behind is not a platform that lost something, as long as the lake goes on growing.
    """
    deadline = time.monotonic() + stalled_s
    missing: int | None = None
    while True:
        rows = await asyncio.to_thread(stored_rows, lake_dir, books)
        ledger = await asyncio.to_thread(close, books.sent, books.acknowledged, rows.keys, rejected(books.base))
        if missing is None or ledger.lost < missing:
            missing, deadline = ledger.lost, time.monotonic() + stalled_s
        if ledger.lost == 0 or time.monotonic() > deadline:
            return ledger, rows
        await asyncio.sleep(_LOOK_EVERY_S)


class RejectWatch:
    """Follows the rejects stream from the moment a run begins."""

    def __init__(self) -> None:
        self.reasons: dict[str, int] = {}
        self._readings: list[ReadingBatch] = []
        self._decoder = msgspec.json.Decoder(Reject)

    async def start(self, bus: Bus) -> Callable[[], object]:
        """Begin behind what is there already; returns how to stop."""
        state = await bus.stream_state(subjects.REJECTS_STREAM)
        follower = await bus.follow(
            subjects.REJECTS_STREAM, list(subjects.REJECTS_SUBJECTS), state.last_sequence + 1, self._take
        )
        return follower.stop

    def _take(self, message: StreamMessage) -> None:
        reject = self._decoder.decode(message.payload)
        self.reasons[reject.reason] = self.reasons.get(reject.reason, 0) + 1
        try:
            self._readings.append(decode_frame(reject.payload).readings)
        except (RejectedInput, IntegrityViolation):
            return  # not a frame: it is counted by its reason, and its readings show as lost unless stored

    def keys(self, base: int) -> Keys:
        """(source, sequence) of every reading of the run that lies among the rejects as part of a frame."""
        return keys_of_readings(ReadingBatch.concat(self._readings), base)


async def connect_bus(url: str | None, key: BusKey | None) -> Bus | None:
    """A connection to the platform's bus, or None where it is not given or does not answer."""
    if url is None or key is None:
        return None
    try:
        return await Bus.connect(url, key, "scenario run")
    except Unavailable:
        return None
