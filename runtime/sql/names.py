"""Names and references of patients in memory, because what is sealed cannot be searched in the database. Clause 7.1b.

One index an engine, and so one an API process. It is read in whole once and then follows the write log, which has a row
of every change of a patient, in the order of commits: a search that begins after a change has committed knows of it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl
from sqlalchemy import Connection, Engine, func, select

from domain.errors import Unavailable
from runtime.sealing import Place, Sealer
from runtime.sql.sealed import NAMES
from runtime.sql.tables import patients, write_log

_SCHEMA: Final = pl.Schema({
    "patient_key": pl.String, "hospital": pl.String, "ward": pl.String, "is_present": pl.Boolean, "name": pl.String,
    "ref": pl.String,
})  # fmt: skip
_CHANGES: Final = ("patient.readmit", "patient.update", "patient.discharge", "patient.erase")  # their target is the key
_CHUNK: Final = 5_000
_CHUNKS_AT_ONCE: Final = 20  # as rows of Python, six times as large as in the table
_MOST_RECENT: Final = 5_000  # rows that are not in the large table yet
_WAIT_S: Final = 10.0
_COLUMNS: Final = ("patient_key", "handle", "hospital_id", "ward_id", "discharged_us", "name", "ref")
_Known = tuple[str, str, str | None, bool, str, str]  # as _SCHEMA, in small letters


@dataclass(frozen=True, slots=True)
class NamePart:
    """A part of a name or reference, in any case, of patients here or in this ward; all of them if nothing is said."""

    text: str
    hospital_ids: Sequence[str] = ()
    ward_id: str | None = None
    present_only: bool = False


class NameIndex:
    """See module. Calls may come from any thread; the first has to wait until all is read."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._lock = threading.Lock()
        self._is_closed = False
        self._table = pl.DataFrame(schema=_SCHEMA)  # by patient key
        self._recent: dict[str, _Known] = {}  # goes before the table; replaced, never changed
        self._handle = 0  # all patients up to here are known
        self._log_id = -1  # all changes up to here are known; -1: nothing was read yet

    def __len__(self) -> int:
        known = self._table["patient_key"]
        return len(known) + len(self._recent) - int(known.is_in(list(self._recent)).sum())

    def close(self) -> None:
        """Read no further: whoever reads now raises Unavailable."""
        self._is_closed = True

    def keys(self, connection: Connection, part: NamePart, *, after: str | None = None, limit: int | None = None) -> list[str]:
        """Keys of the patients that match, in order, behind `after`. Raises Unavailable while all is still being read."""
        table, recent = self._fresh(connection)
        found = _matching(table, part, after)["patient_key"]
        if recent:
            beside = [key for key, known in recent.items() if _matches(known, part) and (after is None or key > after)]
            found = pl.concat([found.filter(~found.is_in(list(recent))), pl.Series(beside, dtype=pl.String)]).sort()
        return (found if limit is None else found.head(limit)).to_list()

    def refresh(self, connection: Connection) -> None:
        """Read what is new: at first all there is."""
        self._fresh(connection)

    def _fresh(self, connection: Connection) -> tuple[pl.DataFrame, dict[str, _Known]]:
        if not self._lock.acquire(timeout=_WAIT_S):
            raise Unavailable("the names of patients are still being read into memory: try again in some seconds")
        try:
            self._catch_up(connection)
            return self._table, self._recent
        finally:
            self._lock.release()

    def _catch_up(self, connection: Connection) -> None:
        """Where the log ends comes first: what is committed while this reads is read now, or again next time."""
        last = int(connection.execute(select(func.max(write_log.c.id))).scalar_one_or_none() or 0)
        if last == self._log_id:
            return
        chunks, handle = [], self._handle
        while chunk := self._read(connection, patients.c.handle > handle):
            chunks.append([known for _, known in chunk])
            handle = chunk[-1][0]
            if len(chunks) == _CHUNKS_AT_ONCE:  # ended behind this, all of them are read again
                self._take([known for chunk in chunks for known in chunk])
                chunks.clear()
        changed: list[_Known] = []
        if self._log_id >= 0:
            since = (write_log.c.id > self._log_id, write_log.c.id <= last, write_log.c.action.in_(_CHANGES))
            targets = sorted(set(connection.execute(select(write_log.c.target).where(*since)).scalars()))
            for start in range(0, len(targets), _CHUNK):
                wanted = patients.c.patient_key.in_(targets[start : start + _CHUNK])
                changed += [known for _, known in self._read(connection, wanted)]
        self._take([known for chunk in chunks for known in chunk] + changed)
        self._handle, self._log_id = handle, last

    def _take(self, rows: list[_Known]) -> None:
        recent = self._recent | {row[0]: row for row in rows}
        if len(recent) <= _MOST_RECENT:
            self._recent = recent
            return
        new = pl.DataFrame(list(recent.values()), schema=_SCHEMA, orient="row")
        old = self._table.filter(~pl.col("patient_key").is_in(new["patient_key"].implode()))
        self._table, self._recent = pl.concat([old, new]).sort("patient_key").rechunk(), {}

    def _read(self, connection: Connection, wanted: Any) -> list[tuple[int, _Known]]:
        if self._is_closed:
            raise Unavailable("the names of patients are not read any more: the process ends")
        query = select(*(patients.c[name] for name in _COLUMNS)).where(wanted).order_by(patients.c.handle).limit(_CHUNK)
        rows = connection.execute(query).all()
        texts = [(Place("patients", c, row.patient_key), getattr(row, c)) for row in rows for c in ("name", "ref")]
        opened = iter(self._sealer.open_many((place, text) for place, text in texts if text is not None))
        clear = iter([_small(next(opened)) if text is not None else "" for _, text in texts])
        return [
            (row.handle, (row.patient_key, row.hospital_id, row.ward_id, row.discharged_us is None, next(clear), next(clear)))
            for row in rows
        ]


def names_of(connection: Connection | Engine) -> NameIndex:
    """The index of an engine, or of its connection's, which must have been opened with a sealer."""
    names: NameIndex = connection.get_execution_options()[NAMES]
    return names


def _small(opened: object) -> str:
    """What is erased or damaged is found by nothing."""
    return opened.lower() if isinstance(opened, str) else ""


def _matching(table: pl.DataFrame, part: NamePart, after: str | None) -> pl.DataFrame:
    text = part.text.lower()
    wanted = [pl.any_horizontal(pl.col("name", "ref").str.contains(text, literal=True))]
    if after is not None:
        wanted.append(pl.col("patient_key") > after)
    if part.hospital_ids:
        wanted.append(pl.col("hospital").is_in(list(part.hospital_ids)))
    if part.ward_id is not None:
        wanted.append(pl.col("ward") == part.ward_id)
    if part.present_only:
        wanted.append(pl.col("is_present"))
    return table.filter(*wanted)


def _matches(known: _Known, part: NamePart) -> bool:
    _, hospital, ward, is_present, name, ref = known
    text = part.text.lower()
    is_there = not part.hospital_ids or hospital in part.hospital_ids
    is_inside = part.ward_id is None or ward == part.ward_id
    return is_there and is_inside and (is_present or not part.present_only) and (text in name or text in ref)
