"""Whose readings are within a reach: handles that are shown as they are, not at all, or only while something was so.

A reading is as sensitive as its device, and while the device was on a patient as sensitive as that patient
(`domain.labels.of_readings`). So of one device a biomedical engineer may see what it measured of nobody, and a patient what it
measured of them. Where everything in a place is within, only the records that are above their class are looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from sqlalchemy import BindParameter, CompoundSelect, Connection, Select, and_, bindparam, select, true, union, union_all
from sqlalchemy.sql.elements import ColumnElement

from domain.labels import LABELS, label_of, of_readings
from domain.permissions import Level, Located, Reach
from domain.principals import Place
from runtime.sql.locating import place_in
from runtime.sql.tables import associations, devices, hospitals, patients
from runtime.sql.within import Kind, is_all, within

_CHUNK: Final = 500
_BELIEVED: Final = associations.c.superseded_us.is_(None)
_HANDLES: Final[BindParameter[Any]] = bindparam("handles", expanding=True)
# made once, as other statements of the reading path: to build one takes longer than SQLite takes to answer it
_OF_DEVICES: Final = (  # each with every patient it was ever on
    select(
        devices.c.handle, devices.c.hospital_id, devices.c.ward_id, devices.c.level, hospitals.c.district,
        patients.c.patient_key, patients.c.ward_id.label("patient_ward_id"), patients.c.level.label("patient_level"),
        associations.c.start_us, associations.c.end_us,
    )
    .select_from(
        devices.join(hospitals, hospitals.c.id == devices.c.hospital_id)
        .outerjoin(associations, and_(associations.c.device_handle == devices.c.handle, _BELIEVED))
        .outerjoin(patients, patients.c.patient_key == associations.c.patient_key)
    )
    .where(devices.c.handle.in_(_HANDLES))
)  # fmt: skip
_OF_PATIENTS: Final = (
    select(patients.c.handle, patients.c.hospital_id, patients.c.ward_id, patients.c.level, patients.c.patient_key,
           hospitals.c.district)
    .join(hospitals, hospitals.c.id == patients.c.hospital_id)
    .where(patients.c.handle.in_(_HANDLES))
)  # fmt: skip
Span = tuple[int, str, int, int | None]  # handle, patient key, from, until


@dataclass(frozen=True, slots=True)
class Judged:
    """Handles that were looked at. Those that are neither `closed` nor `partly` are shown as they are.

    Of `partly` such readings are shown as belong to a pair of `allowed`: device and patient (none: it was on nobody).
    """

    closed: frozenset[int] = frozenset()
    partly: frozenset[int] = frozenset()
    allowed: frozenset[tuple[int, str | None]] = frozenset()
    spans: list[Span] = field(default_factory=list)  # of the devices that were looked at


def broad(reach: Reach) -> tuple[Place, ...] | None:
    """Hospitals, districts or the region, where what is within lies; None when some of it is in wards or with patients."""
    wide = [place for place, highest in reach.levels.items() if place.ward_id is None and highest >= LABELS["readings"]]
    narrow = [place for place in reach.levels if place.ward_id is not None] + [place for place, _ in reach.patients]
    texts = set(map(str, wide))
    is_broad = all(not texts.isdisjoint(map(str, place.chain())) for place in narrow)
    return tuple(wide) if is_broad else None


def handles_within(connection: Connection, reach: Reach, level: Level, hospital_ids: Collection[str] | None) -> dict[int, str]:
    """Handles that may be within in part, and the hospital of each; for a reach that is not `broad`.

    Devices and patients of the wards and hospitals, patients who are named, and the devices they were on.
    """
    of_device = Kind(devices.c.hospital_id, devices.c.ward_id, lambda highest: _constant(level <= highest))
    of_patient = Kind(
        patients.c.hospital_id, patients.c.ward_id, lambda highest: _constant(level <= highest), patients.c.patient_key
    )
    inside = within(reach, of_patient)
    worn = select(associations.c.device_handle).join(patients, patients.c.patient_key == associations.c.patient_key)
    ways = (
        select(devices.c.handle, devices.c.hospital_id).where(within(reach, of_device)),
        select(devices.c.handle, devices.c.hospital_id).where(devices.c.handle.in_(worn.where(_BELIEVED, inside))),
        select(patients.c.handle, patients.c.hospital_id).where(inside),
    )
    found = [(int(row.handle), str(row.hospital_id)) for row in connection.execute(union(*ways))]
    return {handle: hospital for handle, hospital in found if hospital_ids is None or hospital in hospital_ids}


def judge(
    connection: Connection, reach: Reach, handles: Collection[int] | None, hospital_ids: Collection[str] | None = None
) -> Judged:
    """Look at these handles; None: at those of the hospitals (None: of the reach's), where the reach is `broad`."""
    if handles is None:
        handles = connection.execute(union(*_doubtful(_highest(reach), hospital_ids))).scalars().all()
    elif broad(reach) and is_all(connection, reach, LABELS["readings"]):
        handles = _in_doubt(connection, reach, set(handles))
    return judge_each(connection, reach, handles)


def judge_each(connection: Connection, reach: Reach, handles: Collection[int]) -> Judged:
    """Look at each of these handles."""
    closed, seen = set[int](), dict[int, dict[str | None, bool]]()
    spans: list[Span] = []
    wanted = sorted(set(handles))
    for start in range(0, len(wanted), _CHUNK):
        part = {"handles": wanted[start : start + _CHUNK]}
        for row in connection.execute(_OF_DEVICES, part):
            shown = seen.setdefault(row.handle, {None: reach.holds(_alone(row))})
            if row.patient_key is not None:
                shown[row.patient_key] = _is_shown_with(reach, row)
                spans.append((row.handle, row.patient_key, row.start_us, row.end_us))
        closed |= {of.handle for of in connection.execute(_OF_PATIENTS, part) if not reach.holds(_patient(of))}
    closed |= {handle for handle, shown in seen.items() if not any(shown.values())}
    partly = {handle for handle, shown in seen.items() if any(shown.values()) and not all(shown.values())}
    allowed = frozenset((handle, key) for handle in partly for key, is_shown in seen[handle].items() if is_shown)
    return Judged(frozenset(closed), frozenset(partly), allowed, spans)


def _in_doubt(connection: Connection, reach: Reach, named: set[int]) -> set[int]:
    """Which of these to look at: those in doubt, as long as no more are in doubt anywhere than are named; else all of them."""
    found = connection.execute(_any_doubtful(_highest(reach)), {"most": len(named) + 1}).scalars().all()
    return named if len(found) > len(named) else named.intersection(found)


def _highest(reach: Reach) -> Level:
    """Up to which level a broad reach allows everything."""
    wide = broad(reach) or ()
    return min((level for place, level in reach.levels.items() if place in wide), default=Level.PUBLIC)


@cache
def _any_doubtful(highest: Level) -> CompoundSelect[Any]:
    """The first `most` of them, wherever."""
    return union_all(*_doubtful(highest, None)).limit(bindparam("most"))


def _doubtful(highest: Level, hospital_ids: Collection[str] | None) -> tuple[Select[Any], ...]:
    """Handles of which something may be beyond a broad reach: of devices and patients above the level that it allows.

    Above every level are patients whose records are withheld (`domain.labels.WITHHELD`).
    """
    above: ColumnElement[bool] = true() if highest < LABELS["patients"] else patients.c.level > highest
    of_patients: list[ColumnElement[bool]] = [above]
    of_devices: list[ColumnElement[bool]] = [devices.c.level > highest]
    if hospital_ids is not None:
        of_patients.append(patients.c.hospital_id.in_(list(hospital_ids)))
        of_devices.append(devices.c.hospital_id.in_(list(hospital_ids)))
    worn = select(associations.c.device_handle).join(patients, patients.c.patient_key == associations.c.patient_key)
    return (
        select(devices.c.handle).where(*of_devices), worn.where(_BELIEVED, *of_patients),
        select(patients.c.handle).where(*of_patients),
    )  # fmt: skip


def _alone(row: Any) -> Located:
    level = of_readings(None, has_patient=False, device_level=row.level)
    return Located(place_in(row.district, row.hospital_id, row.ward_id), level)


def _patient(row: Any) -> Located:
    place = place_in(row.district, row.hospital_id, row.ward_id)
    return Located(place, label_of("patients", row.level), row.patient_key)


def _is_shown_with(reach: Reach, row: Any) -> bool:
    """By where the device stands, or where the patient lies: clinicians see both."""
    level = of_readings(row.patient_level, has_patient=True, device_level=row.level)
    wards: Iterator[str | None] = iter(dict.fromkeys((row.ward_id, row.patient_ward_id)))
    places = (place_in(row.district, row.hospital_id, ward_id) for ward_id in wards)
    return any(reach.holds(Located(place, level, row.patient_key)) for place in places)


def _constant(value: bool) -> ColumnElement[bool]:
    return true() if value else ~true()


def hospitals_of(connection: Connection, reach: Reach, hospital_ids: Collection[str] | None) -> list[str] | None:
    """The hospitals of a broad reach, of those that are named if some are; None: all of the region."""
    if hospital_ids is None and is_all(connection, reach, LABELS["statistics"]):
        return None
    inside = within(reach, Kind(hospitals.c.id, None, lambda highest: _constant(LABELS["statistics"] <= highest)))
    named = true() if hospital_ids is None else hospitals.c.id.in_(list(hospital_ids))
    return list(connection.execute(select(hospitals.c.id).where(inside, named).order_by(hospitals.c.id)).scalars())
