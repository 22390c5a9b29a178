"""What there is of devices and how open to attack each is: a frame in memory, judged as columns. Clause 8.4a.

It is read anew when it is older than a quarter of a minute, or than ten times as long as reading takes: whoever asks waits
for that where it takes less than a second, and is else answered by what there is. An answer says as of when it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from sqlalchemy import Engine

from api.lanes import Lanes
from domain.errors import Unavailable
from domain.exposure import UNKNOWN, Facts, bit_of, judge
from domain.instants import US_PER_S
from domain.labels import LABELS
from domain.permissions import Level, Reach
from domain.ports import Clock
from domain.principals import Place
from runtime.sql.inventory import inventory

_FRESH_US: Final = 15 * US_PER_S
_QUICK_US: Final = US_PER_S
_SELDOM: Final = 10
_NUMBERS: Final = re.compile(r"\d+")
_KIND: Final = ("model", "maker")
Newest = dict[tuple[str, str | None], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Judged:
    """All devices with `score` and `findings` (bits), the most exposed first; and the newest firmware of each kind."""

    frame: pl.DataFrame
    newest: Newest
    at_us: int
    took_us: int


class Inventory:
    """See module. `present` may be asked by many at once: one of them reads."""

    def __init__(self, engine: Engine, lanes: Lanes, clock: Clock, credential_days: int) -> None:
        self._engine = engine
        self._lanes = lanes
        self._clock = clock
        self._credential_days = credential_days
        self._judged: Judged | None = None
        self._lock = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None

    async def present(self) -> Judged:
        """As it was a moment ago. Raises Unavailable while the database never answered."""
        if self._judged is None:
            await self._read()
        elif self._is_old(self._judged):
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read_beside())
            if self._judged.took_us <= _QUICK_US:
                await asyncio.shield(self._reading)  # shared: who goes away must not end it for others
        assert self._judged is not None
        return self._judged

    async def warmed(self) -> None:
        """Read what there is, so that no question has to wait for it. Raises Unavailable."""
        await self._read()

    async def of_device(self, handle: int) -> pl.DataFrame:
        """One device as it is now, against the firmware of all others as it was a moment ago."""
        newest = (await self.present()).newest
        return await self._lanes.sql(lambda: self._judge(inventory(self._engine, self._clock.now_us(), handle), newest))

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _is_old(self, judged: Judged) -> bool:
        return self._clock.now_us() - judged.at_us > max(_FRESH_US, _SELDOM * judged.took_us)

    async def _read_beside(self) -> None:
        with contextlib.suppress(Unavailable):  # what is there is older, and says so
            await self._read()

    async def _read(self) -> None:
        async with self._lock:
            if self._judged is None or self._is_old(self._judged):  # else another who asked has just read
                self._judged = await self._lanes.sql(self._made)

    def _made(self) -> Judged:
        now_us = self._clock.now_us()
        frame = inventory(self._engine, now_us)
        newest = newest_firmware(frame)
        judged = self._judge(frame, newest).sort("score", "handle", descending=[True, False])
        return Judged(judged, newest, now_us, self._clock.now_us() - now_us)

    def _judge(self, frame: pl.DataFrame, newest: Newest) -> pl.DataFrame:
        score, findings = judge(facts_of(frame, newest), self._clock.now_us(), self._credential_days)
        return frame.with_columns(pl.Series("score", score), pl.Series("findings", findings))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which devices; whatever is left out does not matter."""

    hospital: str | None = None
    ward: str | None = None
    model: str | None = None
    min_score: int = 0
    finding: str | None = None


def chosen(frame: pl.DataFrame, reach: Reach, wanted: Wanted) -> pl.DataFrame:
    """The devices within `reach` that are wanted, in the order of the frame."""
    terms = [is_within(reach), pl.col("score") >= wanted.min_score]
    for column, value in (("hospital", wanted.hospital), ("ward", wanted.ward), ("model", wanted.model)):
        if value is not None:
            terms.append(pl.col(column) == value)
    if wanted.finding is not None:
        terms.append(pl.col("findings") & bit_of(wanted.finding) != 0)
    return frame.filter(*terms)


def is_within(reach: Reach) -> pl.Expr:
    """As `runtime.sql.within.within` of devices, of a frame."""
    level = pl.max_horizontal(pl.col("level").fill_null(0), pl.lit(int(LABELS["devices"])))
    inside = pl.lit(value=False)
    for place, highest in reach.levels.items():
        inside |= _is_in(place) & (pl.lit(value=True) if highest is Level.STRICT else level <= int(highest))
    return inside


def _is_in(place: Place) -> pl.Expr:
    if place.hospital_id is not None:
        of_hospital = pl.col("hospital") == place.hospital_id
        return of_hospital if place.ward_id is None else of_hospital & (pl.col("ward") == place.ward_id).fill_null(value=False)
    of_region = pl.col("hospital").str.starts_with(f"{place.region_id}.")
    if place.district_id is not None:
        return of_region & (pl.col("district") == place.district_id).fill_null(value=False)
    return of_region


def facts_of(frame: pl.DataFrame, newest: Newest) -> Facts:
    """The columns that a judgement is made of."""

    def times(name: str) -> Any:
        return frame[name].fill_null(UNKNOWN).to_numpy()

    token, certificate = frame["has_token"].to_numpy(), frame["has_certificate"].to_numpy()
    return Facts(
        has_credential=token | certificate, is_by_token_too=token & certificate & ~frame["needs_certificate"].to_numpy(),
        is_carried=frame["gateway_handle"].is_not_null().to_numpy(),
        issued_us=times("issued_us"), ends_us=times("certificate_until_us"), seen_us=times("seen_us"),
        over_tls=frame["over_tls"].fill_null(value=False).to_numpy(),
        changed_us=times("changed_us"), has_firmware=frame["firmware"].is_not_null().to_numpy(),
        is_outdated=_outdated(frame, newest), has_serial=frame["serial"].is_not_null().to_numpy(),
        is_default=frame["is_default"].to_numpy(), criticality=frame["criticality"].fill_null(np.iinfo(np.int8).max).to_numpy(),
    )  # fmt: skip


def newest_firmware(frame: pl.DataFrame) -> Newest:
    """By kind and maker. A version that holds no number is none."""
    newest: Newest = {}
    for model, maker, firmware in frame.select(*_KIND, "firmware").drop_nulls("firmware").unique().iter_rows():
        newest[model, maker] = max(newest.get((model, maker), ()), version_of(firmware))
    return newest


def version_of(firmware: str) -> tuple[int, ...]:
    """Its numbers in order: `V2.10-b3` is (2, 10, 3)."""
    return tuple(int(number[:18]) for number in _NUMBERS.findall(firmware))


def _outdated(frame: pl.DataFrame, newest: Newest) -> Any:
    """Judged once for each kind, maker and version there is: they are few."""
    known = frame.select(*_KIND, "firmware").unique()
    old = [
        firmware is not None and () != version_of(firmware) < newest.get((model, maker), ())
        for model, maker, firmware in known.iter_rows()
    ]
    told = known.with_columns(pl.Series("is_outdated", old, dtype=pl.Boolean))
    joined = frame.join(told, on=[*_KIND, "firmware"], how="left", nulls_equal=True, maintain_order="left")
    return joined["is_outdated"].fill_null(value=False).to_numpy()
