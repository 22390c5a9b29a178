"""Which devices are on patients, and who of the ward knows that one of them will be cut off. Clauses 8.4d, 9.4.

Whatever ends a device's way in (isolation, a new token, a revoked credential) asks here in its own transaction. Of a gateway
the patients are those of all that it carries.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, or_, select
from sqlalchemy.sql.elements import ColumnElement

from domain.errors import PatientAttached
from domain.labels import LABELS, label_of
from runtime.sql.engine import reading
from runtime.sql.records import Row
from runtime.sql.tables import associations, devices, patients

_SHOWN_PATIENTS: Final = 5
_SHOWN_DEVICES: Final = 5
_CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class Attached:
    """A device that is on a patient, now or soon: the one that is asked about, or one that it carries.

    `patient_level`: as `patients.level`, None where nothing is said.
    """

    handle: int
    device_id: str
    patient_key: str
    patient_level: int | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """Who of the ward knows that a device will be cut off, and of which of its patients; by default nobody."""

    confirmed_by: str | None = None
    patient_keys: frozenset[str] = frozenset()


NOBODY_KNOWS: Final = Known()


def attached_to(engine: Engine, handle: int, now_us: int) -> list[Attached]:
    """Who would be cut off with this device."""
    with reading(engine) as connection:
        return attached(connection, handle, now_us)


def attached(connection: Connection, handle: int, now_us: int) -> list[Attached]:
    """As `attached_to`; part of the caller's transaction."""
    query = _worn(or_(devices.c.handle == handle, devices.c.gateway_handle == handle), now_us)
    return [Attached(*row) for row in connection.execute(query)]


def check_cut_off(connection: Connection, device: Row, now_us: int, known: Known) -> Row:
    """Whether a device may be cut off now, by whatever; what the write log has to say of it (nothing: it is on nobody).

    Part of the caller's transaction. Raises PatientAttached.
    """
    found = attached(connection, device["handle"], now_us)
    check_known(name_of(device), found, known.patient_keys if known.confirmed_by is not None else ())
    return {"patients": len({one.patient_key for one in found}), "confirmed_by": known.confirmed_by} if found else {}


def check_known(name: str, found: Sequence[Attached], known: Collection[str]) -> None:
    """Raises PatientAttached when a patient is not among the `known`.

    Who is protected above others is counted, not named: whoever cuts off need not be one who may know of them.
    """
    unknown = {one.patient_key: one.patient_level for one in found if one.patient_key not in known}
    if unknown:
        keys = sorted(key for key, level in unknown.items() if label_of("patients", level) == LABELS["patients"])
        some = [*keys[:_SHOWN_PATIENTS], "…"] if len(unknown) > len(keys[:_SHOWN_PATIENTS]) else keys
        raise PatientAttached(
            f"device {name} is on {len(unknown)} patient{'s' if len(unknown) > 1 else ''} ({', '.join(some)}): tell the ward, "
            "then name the doctor or nurse of it who knows (confirmed_by); or take it off them first"
        )


def carried_by(connection: Connection, handle: int, at_us: int) -> list[int]:
    """Devices behind a gateway that are on a patient, now or soon."""
    return carried(attached(connection, handle, at_us), handle)


def carried(found: Sequence[Attached], handle: int) -> list[int]:
    """The handles of those that the device with this `handle` carries."""
    return sorted({one.handle for one in found} - {handle})


def cut_off_by_tokens(worn: Sequence[str]) -> PatientAttached:
    """What is said to whoever asks for new tokens of `worn` devices and did not say that they know."""
    named = ", ".join(worn[:_SHOWN_DEVICES]) + (f" and {len(worn) - _SHOWN_DEVICES} more" if len(worn) > _SHOWN_DEVICES else "")
    return PatientAttached(
        f'new tokens would cut off what is on a patient now ({named}): if it is meant, say "even_on_patients": true'
    )


def on_patients(connection: Connection, handles: Sequence[int], now_us: int) -> list[str]:
    """The ids of those devices, among these and what they carry, that are on a patient, now or soon."""
    found: set[str] = set()
    for start in range(0, len(handles), _CHUNK):
        some = handles[start : start + _CHUNK]
        query = _worn(or_(devices.c.handle.in_(some), devices.c.gateway_handle.in_(some)), now_us)
        found.update(row.device_id for row in connection.execute(query))
    return sorted(found)


def name_of(device: Row) -> str:
    """`hospital/device`."""
    return f"{device['hospital_id']}/{device['device_id']}"


def _worn(which: ColumnElement[bool], now_us: int) -> Select[Any]:
    return (
        select(devices.c.handle, devices.c.device_id, associations.c.patient_key, patients.c.level)
        .join(associations, associations.c.device_handle == devices.c.handle)
        .join(patients, patients.c.patient_key == associations.c.patient_key)
        .where(
            which, associations.c.superseded_us.is_(None),
            or_(associations.c.end_us.is_(None), associations.c.end_us > now_us),
        )
        .order_by(devices.c.handle)
    )  # fmt: skip
