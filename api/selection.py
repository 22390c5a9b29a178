"""Whose readings are asked for: the words of a query become handles, hospitals and the shards to ask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import polars as pl
from fastapi import Query
from sqlalchemy import Connection, Engine, bindparam, func, or_, select, true, tuple_
from sqlalchemy.sql.elements import ColumnElement

from analytics.point_in_time import ASSOCIATIONS
from api.device_names import split_device
from api.times import Rfc3339, maybe_instant
from domain.errors import Forbidden, InvalidInput, NotFound
from domain.ids import parse_hospital_id
from domain.labels import LABELS
from domain.metrics import metric_of
from domain.permissions import Reach
from runtime.sql.engine import reading
from runtime.sql.hand_overs import shards_ever_of
from runtime.sql.names import NamePart, names_of
from runtime.sql.reading_reach import Judged, broad, handles_within, hospitals_of, judge, judge_each
from runtime.sql.tables import associations, devices, hospitals, patients, wards
from runtime.sql.within import DEVICES, PATIENTS, hospitals_named, within

NOTHING_IN_DOUBT: Final = Judged()
MAX_FOUND: Final = 20_000
_CHUNK: Final = 500
_MANY: Final = 5_000
CLOCK_UNCERTAINTY_US: Final = 2_000_000  # as of `messages.DeviceAssociated`
# made once: to build a statement takes longer than the answer
_SHARDS: Final = select(hospitals.c.id, hospitals.c.shard).where(hospitals.c.id.in_(bindparam("hospitals", expanding=True)))
_NAMED: Final = select(devices.c.hospital_id, devices.c.device_id, devices.c.handle).where(
    tuple_(devices.c.hospital_id, devices.c.device_id).in_(bindparam("names", expanding=True))
)


@dataclass(frozen=True)
class ReadingFilter:
    """What readings; whatever is left out does not matter. Times are event times: from <= t < until."""

    device: Annotated[list[str] | None, Query(description="`hospital/device`.", examples=["sz.h012/mon-7"])] = None
    handle: Annotated[list[int] | None, Query(description="Reading handles of devices or patients.")] = None
    patient: Annotated[str | None, Query(description="Patient key: devices while they were on the patient.")] = None
    hospital: Annotated[list[str] | None, Query()] = None
    ward: Annotated[str | None, Query(description="Of the one hospital named.")] = None
    metric: Annotated[list[str] | None, Query(description="Codes of the metric table.", examples=["heart_rate"])] = None
    start: Annotated[Rfc3339 | None, Query(alias="from")] = None
    until: Annotated[Rfc3339 | None, Query()] = None

    def metric_ids(self) -> list[int] | None:
        return sorted({metric_of(code).id for code in self.metric}) if self.metric else None

    def span(self) -> tuple[int | None, int | None]:
        return maybe_instant(self.start), maybe_instant(self.until)


@dataclass(frozen=True, slots=True)
class Selection:
    """None means all. `shards` are those that hold them; `is_cut`: more were found than are looked at.

    `judged`: of which handles not every reading is within the caller's reach (`api.shown_readings`).
    """

    handles: list[int] | None
    hospitals: list[str] | None
    shards: list[int] | None
    is_cut: bool = False
    judged: Judged = NOTHING_IN_DOUBT


def select_by(engine: Engine, wanted: ReadingFilter, *, reach: Reach) -> Selection:
    """What of a filter is within `reach`.

    Raises NotFound for something that does not exist, or has an opaque key and is out of reach, Forbidden for a device out
    of reach, InvalidInput for a contradiction.
    """
    _check_kinds(wanted)
    with reading(engine) as connection:
        asked = _shards_of(connection, [parse_hospital_id(one) for one in wanted.hospital or ()])
        found = _found(connection, wanted, reach)
        if found is None and broad(reach) is not None:
            named = hospitals_of(connection, reach, wanted.hospital or None)
            shards = None if named is None else asked if wanted.hospital else _shards_of(connection, named)
            return Selection(None, named, shards, judged=judge(connection, reach, None, named))
        if found is None:
            found = list(handles_within(connection, reach, LABELS["statistics"], wanted.hospital or None).items())
        judged = judge(connection, reach, {handle for handle, _ in found})
        _check_named(wanted, judged)
        open_to = [(handle, hospital) for handle, hospital in found if handle not in judged.closed]
        shards = _shards_of(connection, sorted({hospital for _, hospital in found}))  # live, what is closed may open there
    return Selection(sorted({handle for handle, _ in open_to}), wanted.hospital or None, shards, judged=judged)


def select_sums(engine: Engine, wanted: ReadingFilter, *, reach: Reach) -> Selection:
    """The hospitals, or the devices and patients of the wards, whose sums are within `reach`. Names nobody one by one.

    Raises NotFound for something that does not exist, InvalidInput for a contradiction.
    """
    _check_kinds(wanted)
    with reading(engine) as connection:
        asked = _shards_of(connection, [parse_hospital_id(one) for one in wanted.hospital or ()])
        if wanted.ward is None and broad(reach) is not None:
            named = hospitals_of(connection, reach, wanted.hospital or None)
            shards = None if named is None else asked if wanted.hospital else _shards_of(connection, named)
            return Selection(None, named, shards)
        found = handles_within(connection, reach, LABELS["statistics"], wanted.hospital or None)
        if wanted.ward is not None:
            of_ward = {handle for handle, _ in _of_ward(connection, wanted)}
            found = {handle: hospital for handle, hospital in found.items() if handle in of_ward}
        return Selection(sorted(found), wanted.hospital or None, _shards_of(connection, sorted(set(found.values()))))


def judge_device(engine: Engine, handle: int, *, reach: Reach) -> Judged:
    """Which of the readings of one device are within `reach`."""
    with reading(engine) as connection:
        return judge_each(connection, reach, [handle])


def left_out_of(engine: Engine, hospital_id: str | None, *, reach: Reach) -> list[int]:
    """Handles of devices and patients of a hospital (None: of the region) of whom not every reading is within `reach`.

    `reach` holds the place itself. A device that was ever on somebody out of reach is left out whole: what goes by handles
    alone cannot tell its readings apart. Raises NotFound for a hospital that does not exist.
    """
    with reading(engine) as connection:
        if hospital_id is not None:
            _shards_of(connection, [hospital_id])
        judged = judge(connection, reach, None, None if hospital_id is None else [hospital_id])
    return sorted(judged.closed | judged.partly)


def freshness_within(
    engine: Engine, hospital_id: str, *, reach: Reach, of_patients: Reach
) -> tuple[list[int], list[int], dict[int, str]]:  # fmt: skip
    """The shards that hold a hospital's devices, the handles of those within `reach`, and charts: patients' keys by handle.

    A chart is called as its patient, so it is one whom the caller may know of: within `of_patients` too.
    """
    with reading(engine) as connection:
        shards = _shards_of(connection, [parse_hospital_id(hospital_id)])
        found = select(devices.c.handle).where(devices.c.hospital_id == hospital_id, within(reach, DEVICES))
        charts = select(patients.c.handle, patients.c.patient_key).where(
            patients.c.hospital_id == hospital_id, within(reach, PATIENTS), within(of_patients, PATIENTS)
        )
        keys = {row.handle: row.patient_key for row in connection.execute(charts)}
        return shards, list(connection.execute(found).scalars()), keys


def _check_kinds(wanted: ReadingFilter) -> None:
    if wanted.ward is not None and len(wanted.hospital or ()) != 1:
        raise InvalidInput(f"ward {wanted.ward!r} is of one hospital: name that hospital, and no other")
    kinds = [wanted.device, wanted.handle, wanted.patient, wanted.ward]
    if sum(kind is not None for kind in kinds) > 1:
        raise InvalidInput("readings are asked for by device, handle, patient or ward: give one kind")


def _check_named(wanted: ReadingFilter, judged: Judged) -> None:
    """Of what was named one by one at least something has to be within reach. Handles count up: of one nothing is told."""
    if judged.closed and wanted.handle is not None:
        raise NotFound(f"handle {min(judged.closed)} is unknown")
    if judged.closed and wanted.device is not None:
        what = f"device {wanted.device[0]}" if len(wanted.device) == 1 else f"one of {len(wanted.device)} devices"
        raise Forbidden(f"you may not read anything that {what} measures")


def _found(connection: Connection, wanted: ReadingFilter, reach: Reach) -> list[tuple[int, str]] | None:
    """(handle, hospital) of what is named one by one; None when only hospitals are, or nothing."""
    if wanted.device is not None:
        return _devices(connection, wanted.device)
    if wanted.handle is not None:
        return _known(connection, wanted.handle)
    if wanted.patient is not None:
        return _worn_by(connection, wanted.patient, reach)
    if wanted.ward is not None:
        return _of_ward(connection, wanted)
    return None


def search(
    engine: Engine,
    text: str,
    hospital_ids: Sequence[str] | None,
    by_id: Sequence[tuple[int, str]],
    *,
    reach: Reach,
    clear: Reach,
) -> Selection:
    """Devices within `reach` whose ward or patient has `text` in its name, in any case, and those found `by_id`. Clause 7.1b.

    Patients are found by name within `clear`: elsewhere the caller does not see names, and a search would tell them.
    `by_id`: (handle, hospital) as of `Directory.devices_named`, which has all ids in memory: the database would read
    every one of them.
    """
    part = text.lower()

    def like(column: Any) -> Any:
        return func.lower(column).contains(part, autoescape=True)

    of_wards = select(wards.c.hospital_id, wards.c.id).where(or_(like(wards.c.name), like(wards.c.id)))
    inside = devices.c.hospital_id.in_(list(hospital_ids)) if hospital_ids else true()
    query = select(devices.c.handle, devices.c.hospital_id).where(
        tuple_(devices.c.hospital_id, devices.c.ward_id).in_(of_wards), inside
    )
    with reading(engine) as connection:
        worn = _worn_by_named(connection, text, hospital_ids, clear)
        found = sorted({*by_id, *worn, *((handle, hospital) for handle, hospital in connection.execute(query))})
        judged = judge(connection, reach, {handle for handle, _ in found})
        found = [(handle, hospital) for handle, hospital in found if handle not in judged.closed]
        shards = _shards_of(connection, sorted({hospital for _, hospital in found[: MAX_FOUND + 1]}))
    is_cut = len(found) > MAX_FOUND or len(worn) > MAX_FOUND
    return Selection([handle for handle, _ in found[:MAX_FOUND]], None, shards, is_cut, judged)


def _worn_by_named(connection: Connection, text: str, hospital_ids: Sequence[str] | None, clear: Reach) -> set[tuple[int, str]]:
    """(handle, hospital) of the devices that are believed to be, or to have been, on a patient with such a name.

    Of patients within `clear` alone. Ends beyond MAX_FOUND.
    """
    named = hospitals_named(clear)
    inside = sorted(set(hospital_ids) & set(named)) if hospital_ids and named else hospital_ids or named
    if clear.is_nothing or (hospital_ids and not inside):
        return set()
    keys = names_of(connection).keys(connection, NamePart(text, inside))
    found: set[tuple[int, str]] = set()
    for start in range(0, len(keys), _MANY):
        query = (
            select(devices.c.handle, devices.c.hospital_id)
            .join(associations, associations.c.device_handle == devices.c.handle)
            .join(patients, patients.c.patient_key == associations.c.patient_key)
            .where(associations.c.superseded_us.is_(None), associations.c.patient_key.in_(keys[start : start + _MANY]))
            .where(within(clear, PATIENTS))
        )
        found |= {(handle, hospital) for handle, hospital in connection.execute(query)}
        if len(found) > MAX_FOUND:
            break
    return found


def handles_of(engine: Engine, hospital_ids: Sequence[str] | None) -> list[int]:
    """All handles of devices and patients of these hospitals."""
    found: list[int] = []
    with reading(engine) as connection:
        for table in (devices, patients):
            query = select(table.c.handle).where(table.c.hospital_id.in_(list(hospital_ids or ())))
            found += connection.execute(query).scalars()
    return found


def spans_of(engine: Engine, selection: Selection) -> pl.DataFrame:
    """Believed associations of the selected devices, and each patient's own handle for all time (ASSOCIATIONS)."""
    spans = select(
        associations.c.device_handle, associations.c.patient_key, associations.c.start_us, associations.c.end_us
    ).where(associations.c.superseded_us.is_(None))
    own = select(patients.c.handle, patients.c.patient_key)
    if selection.hospitals is not None:
        of_hospitals = select(devices.c.handle).where(devices.c.hospital_id.in_(selection.hospitals))
        spans = spans.where(associations.c.device_handle.in_(of_hospitals))
        own = own.where(patients.c.hospital_id.in_(selection.hospitals))
    rows: list[tuple[Any, ...]] = []
    with reading(engine) as connection:
        for of_devices, of_patients in _parts(selection.handles):
            rows += map(tuple, connection.execute(spans.where(of_devices)))
            rows += [(handle, key, -(2**62), None) for handle, key in connection.execute(own.where(of_patients))]
    frame = pl.DataFrame(rows, schema={name: dtype for name, dtype in ASSOCIATIONS.items() if name in _SPAN}, orient="row")
    return frame.with_columns(clock_uncertainty_us=pl.lit(CLOCK_UNCERTAINTY_US, pl.Int64))


def _parts(handles: list[int] | None) -> Iterator[tuple[ColumnElement[bool], ColumnElement[bool]]]:
    """Conditions of associations and of patients that are of these handles, a part of them each; None: of all."""
    if handles is None:
        yield true(), true()
        return
    for start in range(0, len(handles), _MANY):
        part = handles[start : start + _MANY]
        yield associations.c.device_handle.in_(part), patients.c.handle.in_(part)


_SPAN: Final = ("handle", "patient_key", "start_us", "end_us")


def _devices(connection: Connection, names: list[str]) -> list[tuple[int, str]]:
    pairs = [split_device(name) for name in names]
    found: dict[tuple[str, str], int] = {}
    for start in range(0, len(pairs), _CHUNK):
        part = {"names": pairs[start : start + _CHUNK]}
        found |= {(hospital, device): handle for hospital, device, handle in connection.execute(_NAMED, part)}
    unknown = ["/".join(pair) for pair in pairs if pair not in found]
    if unknown:
        raise NotFound(f"device {unknown[0]!r} is unknown")
    return [(found[pair], pair[0]) for pair in pairs]


def _known(connection: Connection, handles: list[int]) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for start in range(0, len(handles), _CHUNK):
        part = handles[start : start + _CHUNK]
        for table in (devices, patients):
            query = select(table.c.handle, table.c.hospital_id).where(table.c.handle.in_(part))
            found += [(handle, hospital) for handle, hospital in connection.execute(query)]
    unknown = sorted(set(handles) - {handle for handle, _ in found})
    if unknown:
        raise NotFound(f"handle {unknown[0]} is unknown")
    return found


def _worn_by(connection: Connection, patient_key: str, reach: Reach) -> list[tuple[int, str]]:
    query = select(patients.c.handle, patients.c.hospital_id).where(patients.c.patient_key == patient_key)
    query = query.where(within(reach, PATIENTS))
    patient = connection.execute(query).one_or_none()
    if patient is None:
        raise NotFound(f"patient {patient_key!r} is unknown")
    worn = select(associations.c.device_handle).where(
        associations.c.patient_key == patient_key, associations.c.superseded_us.is_(None)
    )
    handles = {patient.handle, *connection.execute(worn).scalars()}
    return [(handle, patient.hospital_id) for handle in handles]


def _of_ward(connection: Connection, wanted: ReadingFilter) -> list[tuple[int, str]]:
    assert wanted.hospital
    query = select(devices.c.handle, devices.c.hospital_id).where(
        devices.c.hospital_id == wanted.hospital[0], devices.c.ward_id == wanted.ward
    )
    found = [(handle, hospital) for handle, hospital in connection.execute(query)]
    if not found:
        raise NotFound(f"ward {wanted.ward!r} of hospital {wanted.hospital[0]!r} is unknown, or has no device")
    return found


def _shards_of(connection: Connection, hospital_ids: Sequence[str]) -> list[int]:
    """The shards to ask for readings of these hospitals: where they are, and where their last rows may lie."""
    of_these = {"hospitals": list(hospital_ids)}
    found = {row.id: row.shard for row in connection.execute(_SHARDS, of_these)} if hospital_ids else {}
    for hospital_id in hospital_ids:
        if hospital_id not in found:
            raise NotFound(f"hospital {hospital_id!r} is unknown")
    return sorted({*found.values(), *shards_ever_of(connection, hospital_ids)})
