"""Who is in a shard, said again: the control messages that bring a host which knows nobody to what is so now.

The order is the cheapest for who applies them: windows of wards before the devices that stand in them, patients before
the spans that name them. Discharged patients and retired devices are among them: readings of theirs may still come.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from sqlalchemy import Connection, Engine, Select, func, or_, select

from domain.messages import AssociationSpan, Control, DeviceAssociated, LimitsPreset, MaintenanceSet, PatientAdmitted
from runtime.sql.attached import carried_by
from runtime.sql.devices import FOR_EVER_US, RETIRED, registered
from runtime.sql.engine import reading
from runtime.sql.isolation_tables import isolations
from runtime.sql.isolations import message_of
from runtime.sql.patients import admitted
from runtime.sql.tables import associations, devices, hand_overs, hospitals, limit_presets, maintenance_windows, patients


def shard_directory(engine: Engine, shard: int, since: int = 0) -> list[Control]:
    """Everything hosts hold of the hospitals of `shard`. Raises Unavailable.

    `since`: where the stream begins. Hospitals that were handed over behind it are said too: the cut takes them away.
    A change made while this reads may be in it or not: it is in the outbox, and so reaches the stream behind it.
    """
    gone = select(hand_overs.c.hospital_id).where(hand_overs.c.from_shard == shard, hand_overs.c.cut_by >= since)
    inside = select(hospitals.c.id).where(or_(hospitals.c.shard == shard, hospitals.c.id.in_(gone)))
    with reading(engine) as connection:
        windows = list(_windows(connection, inside))
        return [
            *(window for window in windows if window.ward_id is not None),
            *_registrations(connection, inside),
            *_admissions(connection, inside),
            *_associations(connection, inside),
            *_isolations(connection, inside),
            *_presets(connection, inside),
            *(window for window in windows if window.ward_id is None),
            *_retirements(connection, inside),
        ]


def _registrations(connection: Connection, inside: Select[tuple[str]]) -> Iterator[Control]:
    names = ("hospital_id", "handle", "device_id", "model", "ward_id", "bed_id")
    query = select(*(devices.c[name] for name in names)).where(devices.c.hospital_id.in_(inside))
    rows = connection.execute(query.order_by(devices.c.hospital_id, devices.c.handle)).mappings()
    for hospital_id, group in groupby(rows, key=lambda row: row["hospital_id"]):
        yield from registered(hospital_id, [dict(row) for row in group])


def _admissions(connection: Connection, inside: Select[tuple[str]]) -> Iterator[Control]:
    names = (*PatientAdmitted.__struct_fields__,)
    query = select(*(patients.c[name] for name in names)).where(patients.c.hospital_id.in_(inside)).order_by(patients.c.handle)
    for row in connection.execute(query).mappings():
        yield admitted(dict(row))


def _associations(connection: Connection, inside: Select[tuple[str]]) -> Iterator[Control]:
    """All spans believed now, device by device."""
    table = associations
    query = (
        select(devices.c.hospital_id, table.c.device_handle, patients.c.handle, table.c.start_us, table.c.end_us)
        .join(devices, devices.c.handle == table.c.device_handle)
        .join(patients, patients.c.patient_key == table.c.patient_key)
        .where(table.c.superseded_us.is_(None), devices.c.hospital_id.in_(inside))
        .order_by(table.c.device_handle, table.c.start_us)
    )
    for (hospital_id, handle), rows in groupby(connection.execute(query), key=lambda row: (row[0], row[1])):
        yield DeviceAssociated(hospital_id, handle, [AssociationSpan(*row[2:]) for row in rows])


def _isolations(connection: Connection, inside: Select[tuple[str]]) -> Iterator[Control]:
    """Those in force, behind the spans: whom they concern is known by then."""
    query = (
        select(isolations, devices.c.hospital_id).join(devices, devices.c.handle == isolations.c.device_handle)
        .where(isolations.c.released_us.is_(None), devices.c.hospital_id.in_(inside)).order_by(isolations.c.id)
    )  # fmt: skip
    for row in connection.execute(query).mappings().all():
        carried = carried_by(connection, row["device_handle"], row["isolated_us"])
        yield message_of(dict(row), row["hospital_id"], carried)


def _presets(connection: Connection, inside: Select[tuple[str]]) -> Iterator[Control]:
    query = (
        select(patients.c.hospital_id, patients.c.handle, limit_presets.c.metric, limit_presets.c.limits)
        .join(patients, patients.c.patient_key == limit_presets.c.patient_key)
        .where(patients.c.hospital_id.in_(inside))
        .order_by(patients.c.handle, limit_presets.c.metric)
    )
    for hospital_id, handle, metric, limits in connection.execute(query):
        yield LimitsPreset(hospital_id, handle, metric, tuple(limits))


def _windows(connection: Connection, inside: Select[tuple[str]]) -> Iterator[MaintenanceSet]:
    """The newest window of each device and ward: hosts hold one of each."""
    table = maintenance_windows
    newest = select(func.max(table.c.id)).where(table.c.hospital_id.in_(inside))
    newest = newest.group_by(table.c.hospital_id, table.c.device_handle, table.c.ward_id)
    for row in connection.execute(select(table).where(table.c.id.in_(newest)).order_by(table.c.id)).mappings():
        yield MaintenanceSet(row["hospital_id"], row["from_us"], row["until_us"], row["device_handle"] or 0, row["ward_id"])


def _retirements(connection: Connection, inside: Select[tuple[str]]) -> Iterator[Control]:
    """A retired device alarms no more."""
    query = select(devices.c.hospital_id, devices.c.handle).where(devices.c.hospital_id.in_(inside))
    for hospital_id, handle in connection.execute(query.where(devices.c.status == RETIRED).order_by(devices.c.handle)):
        yield MaintenanceSet(hospital_id, 0, FOR_EVER_US, handle)
