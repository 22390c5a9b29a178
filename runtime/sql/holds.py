"""Legal holds: a patient, a device or a hospital of which nothing is deleted while the hold stands. Clause 9.3h.

But copies on their way, which are elsewhere too: the outbox and the streams.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, and_, insert, or_, select, true, update
from sqlalchemy.sql.elements import ColumnElement

from domain.erasures import Held, HeldReadings, State
from domain.errors import Conflict, InvalidInput, NotFound
from domain.permissions import Reach
from runtime.sealing import Place, hospital_owner
from runtime.sql.engine import reading, writing
from runtime.sql.life_tables import erasures, legal_holds
from runtime.sql.records import Author, Page, Row, check_text, log_write, one, page
from runtime.sql.sealed import open_texts, shut_text
from runtime.sql.tables import associations, devices, hospitals, patients
from runtime.sql.within import Kind, within

_REASON_CHARS: Final = 500
_CHUNK: Final = 500


def add_hold(engine: Engine, author: Author, kind: Held, target: str, until_us: int | None) -> Row:
    """Hold a patient (their key), a device (`hospital/device`) or a hospital, until then or until it is lifted.

    With `too_late_for`: erasures of the hospital's patients that run already, which a hold on a device or hospital does not
    stop. Raises NotFound, InvalidInput without a reason or for a time that is over, Conflict for a patient who is being
    erased or was.
    """
    if author.reason is None:
        raise InvalidInput("a legal hold needs a reason (X-Reason)")
    check_text(author.reason, "the reason of a hold", _REASON_CHARS)
    if until_us is not None and until_us <= author.now_us:
        raise InvalidInput("a hold ends in the future, or when it is lifted")
    with writing(engine) as connection:
        hospital_id = hospital_of(connection, kind, target)
        too_late_for = _running(connection, kind, target, hospital_id)
        row = {
            "kind": kind.value, "target": target, "hospital_id": hospital_id, "who": author.who, "from_us": author.now_us,
            "until_us": until_us, "lifted_us": None, "lifted_by": None,
        }  # fmt: skip
        shut = shut_text(connection, hospital_owner(hospital_id, "holds"), _place(row), author.reason)
        key = connection.execute(insert(legal_holds).values({**row, "reason": shut})).inserted_primary_key
        assert key is not None
        detail = {"hold": key[0], "until_us": until_us, "too_late_for": too_late_for}
        log_write(connection, author, "hold.add", f"{kind.value} {target}", detail)
        return {"id": int(key[0]), **row, "reason": author.reason, "too_late_for": too_late_for}


def lift_hold(engine: Engine, author: Author, hold_id: int) -> Row:
    """End a hold. Lifted already, nothing changes. Raises NotFound."""
    with writing(engine) as connection:
        row = _hold(connection, hold_id)
        if row["lifted_us"] is None:
            lifted = {"lifted_us": author.now_us, "lifted_by": author.who}
            connection.execute(update(legal_holds).where(legal_holds.c.id == hold_id).values(lifted))
            log_write(connection, author, "hold.lift", f"{row['kind']} {row['target']}", {"hold": hold_id})
            row |= lifted
        return _opened(connection, [row])[0]


def find_hold(engine: Engine, hold_id: int) -> Row:
    """As it is stored. Raises NotFound."""
    with reading(engine) as connection:
        return _hold(connection, hold_id)


def list_holds(engine: Engine, *, reach: Reach, limit: int, after: tuple[Any, ...] | None = None) -> Page:
    """Holds of the hospitals within `reach`, lifted ones too, the newest first."""
    inside = within(reach, Kind(legal_holds.c.hospital_id, None, lambda _: true()))
    with reading(engine) as connection:
        query = select(legal_holds).where(inside)
        found = page(connection, query, [legal_holds.c.id], limit=limit, after=after, descending=True)
        return Page(_opened(connection, found.rows), found.after)


def holds_of_patient(connection: Connection, patient: Row, now_us: int) -> list[Row]:
    """Holds in force that keep a patient: on them, on a device they wore, on their hospital. Reasons stay shut."""
    worn = (
        select(devices.c.hospital_id.concat("/").concat(devices.c.device_id))
        .join(associations, associations.c.device_handle == devices.c.handle)
        .where(associations.c.patient_key == patient["patient_key"])
    )
    mine = or_(
        and_(legal_holds.c.kind == Held.PATIENT.value, legal_holds.c.target == patient["patient_key"]),
        and_(legal_holds.c.kind == Held.HOSPITAL.value, legal_holds.c.target == patient["hospital_id"]),
        and_(legal_holds.c.kind == Held.DEVICE.value, legal_holds.c.target.in_(worn)),
    )
    query = select(legal_holds).where(mine, in_force(now_us)).order_by(legal_holds.c.id)
    return [dict(row) for row in connection.execute(query).mappings()]


def kept_readings(engine: Engine, now_us: int) -> HeldReadings:
    """What the lake has to keep, whatever its age: of a held patient the devices they wore too, at any time."""
    with reading(engine) as connection:
        rows = connection.execute(select(legal_holds.c.kind, legal_holds.c.target).where(in_force(now_us))).all()
        by_kind = {kind: {row.target for row in rows if row.kind == kind} for kind in Held}
        return HeldReadings(
            frozenset(by_kind[Held.HOSPITAL]),
            _handles_of_patients(connection, by_kind[Held.PATIENT]) | _handles_of_devices(connection, by_kind[Held.DEVICE]),
        )


def in_force(now_us: int) -> ColumnElement[bool]:
    """The condition that a hold stands."""
    is_open = or_(legal_holds.c.until_us.is_(None), legal_holds.c.until_us > now_us)
    return and_(legal_holds.c.lifted_us.is_(None), is_open)


def held_hospitals(now_us: int) -> Select[tuple[str]]:
    """Hospitals of which something is held, as a subquery."""
    return select(legal_holds.c.hospital_id).where(in_force(now_us))


def hospital_of(connection: Connection, kind: Held, target: str) -> str:
    """The hospital of what is to be held. Raises NotFound."""
    if kind is Held.PATIENT:
        query = select(patients.c.hospital_id).where(patients.c.patient_key == target)
    elif kind is Held.HOSPITAL:
        query = select(hospitals.c.id).where(hospitals.c.id == target)
    else:
        hospital_id, _, device_id = target.partition("/")
        query = select(devices.c.hospital_id).where(devices.c.hospital_id == hospital_id, devices.c.device_id == device_id)
    found = connection.execute(query).scalar_one_or_none()
    if found is None:
        raise NotFound(f"{kind.value} {target!r} is unknown")
    return str(found)


def _running(connection: Connection, kind: Held, target: str, hospital_id: str) -> list[int]:
    """Erasures that go on whatever is held now. Of a device all of its hospital's: who wore it is what goes first."""
    running = select(erasures.c.id).join(patients, patients.c.patient_key == erasures.c.patient_key)
    running = running.where(erasures.c.state == State.RUNNING.value)
    if kind is not Held.PATIENT:
        of_hospital = running.where(patients.c.hospital_id == hospital_id).order_by(erasures.c.id)
        return [int(number) for number in connection.execute(of_hospital).scalars()]
    if connection.execute(running.where(patients.c.patient_key == target)).first() is not None:
        raise Conflict(f"patient {target!r} is being erased: nothing can be held of them any more")
    gone = select(patients.c.patient_key).where(patients.c.patient_key == target, patients.c.ref.is_(None))
    if connection.execute(gone).first() is not None:
        raise Conflict(f"the data of patient {target!r} were erased: there is nothing to hold")
    return []


def _handles_of_patients(connection: Connection, keys: Collection[str]) -> frozenset[int]:
    found: set[int] = set()
    for part in _parts(sorted(keys)):
        found |= set(connection.execute(select(patients.c.handle).where(patients.c.patient_key.in_(part))).scalars())
        worn = select(associations.c.device_handle).where(associations.c.patient_key.in_(part))
        found |= set(connection.execute(worn).scalars())
    return frozenset(found)


def _handles_of_devices(connection: Connection, names: Collection[str]) -> frozenset[int]:
    found: set[int] = set()
    for part in _parts(sorted(names)):
        name = devices.c.hospital_id.concat("/").concat(devices.c.device_id)
        found |= set(connection.execute(select(devices.c.handle).where(name.in_(part))).scalars())
    return frozenset(found)


def _parts(values: Sequence[str]) -> list[Sequence[str]]:
    return [values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK)]


def _hold(connection: Connection, hold_id: int) -> Row:
    return one(connection, select(legal_holds).where(legal_holds.c.id == hold_id), f"hold {hold_id}")


def _place(row: Row) -> Place:
    return Place("legal_holds", "reason", f"{row['kind']}|{row['target']}|{row['from_us']}")


def _opened(connection: Connection, rows: list[Row]) -> list[Row]:
    return open_texts(connection, rows, "reason", [_place(row) for row in rows])
