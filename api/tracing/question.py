"""Who traces, and what of a message lies within their reach: readings, by whose they were when they were taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl
from sqlalchemy import Engine

from api.asking import Asking
from api.services import Backend
from api.shown_readings import shown_readings
from api.times import Zone
from api.tracing.fates import IDENTITY
from domain.errors import NotFound
from domain.labels import LABELS
from domain.permissions import Located, Reach
from domain.principals import Place
from domain.traces import TraceKey
from runtime.lake_row_groups import FEW_HANDLES
from runtime.sql.engine import reading
from runtime.sql.hand_overs import shards_ever_of
from runtime.sql.reading_reach import Judged, judge
from runtime.sql.records import shard_of

MOST_READINGS: Final = 200
MOST_DEVICES: Final = FEW_HANDLES
CLOCK: Final = ("clock_offset_us", "clock_uncertainty_us")


@dataclass(frozen=True, slots=True)
class Tracing:
    """One question: of whom, in whose zone, and which readings of a message are to be listed (none named: the first)."""

    behind: Backend
    who: Asking
    zone: Zone
    handle: int | None = None
    metrics: frozenset[int] = frozenset()

    @property
    def is_of_region(self) -> bool:
        """Whether what belongs to no hospital is within reach: messages of unknown devices, and damaged ones."""
        return self.who.reach.holds(Located(Place(self.behind.services.region_id), LABELS["REJECTS"]))


@dataclass(frozen=True, slots=True)
class Within:
    """Readings of a message within reach (NAMED, with hospital, device_id, patient_key), those listed, and how many others."""

    shown: pl.DataFrame
    listed: pl.DataFrame
    others: int
    judged: Judged


def unknown(key: TraceKey) -> NotFound:
    """What is said of a message that is none, and of one that is out of reach alike."""
    return NotFound(f"message {key} is unknown")


async def within(asked: Tracing, rows: pl.DataFrame) -> Within:
    """Cut readings (NAMED) to the caller's reach, and to those that are asked for."""
    behind = asked.behind
    await behind.directory.refreshed_for(rows)
    named = behind.directory.named(rows.unique(IDENTITY, maintain_order=True))
    known = named.filter(pl.col("hospital").is_not_null())
    judged = await behind.read(_judge, behind.engine, asked.who.reach, known["handle"].unique().to_list())
    shown = judged_by_clock(known.with_columns(pl.lit(0, pl.Int64).alias(name) for name in CLOCK), judged).drop(CLOCK)
    if asked.is_of_region:
        shown = pl.concat([shown, named.filter(pl.col("hospital").is_null())])
    wanted = shown
    if asked.handle is not None:
        wanted = wanted.filter(pl.col("handle") == asked.handle)
    if asked.metrics:
        wanted = wanted.filter(pl.col("metric").is_in(list(asked.metrics)))
    few = wanted["handle"].unique(maintain_order=True).head(MOST_DEVICES)
    listed = wanted.filter(pl.col("handle").is_in(few.to_list())).head(MOST_READINGS)
    return Within(shown, listed, len(named) - len(shown), judged)


def judged_by_clock(rows: pl.DataFrame, judged: Judged) -> pl.DataFrame:
    """The rows within reach, by event times as the lake corrected them where it has them."""
    return shown_readings(rows.with_columns(pl.col(name).fill_null(0) for name in CLOCK), judged)


def _judge(engine: Engine, reach: Reach, handles: list[int]) -> Judged:
    with reading(engine) as connection:
        return judge(connection, reach, handles)


async def shards_of(behind: Backend, hospitals: Sequence[str]) -> list[int]:
    """Where these hospitals are now, then where they ever were."""
    return await behind.read(_shards_of, behind.engine, hospitals)


def _shards_of(engine: Engine, hospitals: Sequence[str]) -> list[int]:
    with reading(engine) as connection:
        now = [shard_of(connection, hospital) for hospital in hospitals]
        return list(dict.fromkeys([*now, *sorted(shards_ever_of(connection, hospitals))]))


async def device_name(asked: Tracing, handle: int) -> str | None:
    """`hospital/device` of a device; None for a patient's own handle, whose name in the directory is the patient's key."""
    await asked.behind.directory.refreshed_up_to(handle)
    name = asked.behind.directory.device_ids([handle])[handle]
    return name if "/" in name else None
