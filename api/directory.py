"""Names for handles: whose reading is it? Held in memory, because every answer of readings needs it.

A handle is given once and never used again, so what is known of it stays true; only new ones are looked up. Row n of
the table is handle n.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import polars as pl
from sqlalchemy import Engine, String, cast, null, select, union_all

from runtime.sql.engine import reading
from runtime.sql.tables import devices, patients

_SCHEMA: Final = {"handle": pl.UInt32, "hospital": pl.String, "device_id": pl.String, "patient_key": pl.String}
_NAMES: Final = ("hospital", "device_id", "patient_key")
_IN_VAIN_S: Final = 1.0  # a handle that was looked for and not found is not looked for again so soon


class Directory:
    """See module. `refreshed_for` (or `refreshed_up_to`) before `named`: only they may ask the database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._table = pl.DataFrame({name: [None] for name in _SCHEMA}, schema=_SCHEMA)
        self._in_vain = (0, float("-inf"))  # the highest handle not found, and when
        self._lock = asyncio.Lock()

    async def refreshed_for(self, frame: pl.DataFrame) -> None:
        """Look for new handles when one of `frame` is beyond what is known."""
        highest = frame["handle"].max() if "handle" in frame.columns else None
        if isinstance(highest, int):
            await self.refreshed_up_to(highest)

    async def refreshed_up_to(self, highest: int) -> None:
        """Look for new handles when `highest` is beyond what is known."""
        if highest < len(self._table):
            return
        async with self._lock:
            now_s = asyncio.get_running_loop().time()
            handle, looked_s = self._in_vain
            if highest < len(self._table) or (highest <= handle and now_s - looked_s < _IN_VAIN_S):
                return
            self._table = await asyncio.to_thread(self._extended, self._table)
            if highest >= len(self._table):
                self._in_vain = (highest, now_s)

    async def warmed(self) -> None:
        """Read all there is, so that no question has to wait for it."""
        async with self._lock:
            self._table = await asyncio.to_thread(self._extended, self._table)

    def named(self, frame: pl.DataFrame) -> pl.DataFrame:
        """`frame` (with `handle`) with the columns hospital, device_id and patient_key; null for an unknown handle."""
        table = self._table
        handles = frame["handle"].to_numpy()
        rows = np.where(handles < len(table), handles, 0).astype(np.uint32)
        names = [table[name][pl.Series(rows)] for name in _NAMES]
        return pl.DataFrame([column for column in frame.get_columns() if column.name not in _NAMES]).hstack(names)

    def devices_named(self, part: str, hospital_ids: Sequence[str] | None) -> list[tuple[int, str]]:
        """(handle, hospital) of the devices that have `part` in their id, in any case. Looks at all: call it in a thread."""
        is_named = pl.col("device_id").str.to_lowercase().str.contains(part.lower(), literal=True)
        is_there = pl.lit(value=True) if not hospital_ids else pl.col("hospital").is_in(list(hospital_ids))
        return self._table.filter(is_named, is_there).select("handle", "hospital").rows()

    def device_ids(self, handles: Sequence[int]) -> dict[int, str]:
        """`hospital/device` of each handle that is a device's, and the patient key of a patient's."""
        found = self.named(pl.DataFrame({"handle": handles}, schema={"handle": pl.UInt32}))
        text = pl.coalesce(pl.concat_str("hospital", pl.lit("/"), "device_id"), "patient_key").fill_null("")
        return dict(zip(found["handle"].to_list(), found.select(text.alias("name"))["name"].to_list(), strict=True))

    def _extended(self, table: pl.DataFrame) -> pl.DataFrame:
        new = self._look(len(table) - 1)
        if not new:
            return table
        found = pl.DataFrame(new, schema=_SCHEMA, orient="row")
        last = int(found["handle"].max())  # type: ignore[arg-type]  # a column of integers
        span = pl.DataFrame({"handle": pl.int_range(len(table), last + 1, dtype=pl.UInt32, eager=True)})
        return pl.concat([table, span.join(found, on="handle", how="left", maintain_order="left")]).rechunk()

    def _look(self, beyond: int) -> list[tuple[Any, ...]]:
        """In one statement: between two a device could be registered and, below the highest seen, never be found."""
        nothing = cast(null(), String)
        query = union_all(
            select(devices.c.handle, devices.c.hospital_id, devices.c.device_id, nothing).where(devices.c.handle > beyond),
            select(patients.c.handle, patients.c.hospital_id, nothing, patients.c.patient_key).where(
                patients.c.handle > beyond
            ),
        )
        with reading(self._engine) as connection:
            return [tuple(row) for row in connection.execute(query)]
