"""Cutting a device off, and taking that back, each in one transaction: row, hosts' message and write log, or none of them.

Doors ask for what is in force (`isolated_handles`), hosts are told through the outbox. A device that is on a patient, or
carries one that is, is not cut off unless a person of the ward is named who knows. Clauses 8.4d, 9.4.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, bindparam, insert, select, update

from domain.errors import Conflict, InvalidInput
from domain.messages import DeviceIsolated
from domain.permissions import Reach
from runtime.data_keys import Owner
from runtime.sealing import hospital_owner
from runtime.sql.attached import attached, carried, check_known, name_of
from runtime.sql.credential_tables import claim_codes, device_certificates
from runtime.sql.engine import reading, writing
from runtime.sql.isolation_tables import is_isolated, isolations
from runtime.sql.records import Author, Page, Row, log_write, one, page, tell_hosts
from runtime.sql.sealed import open_texts, place_of_isolation, shut_text
from runtime.sql.sighting_tables import sightings
from runtime.sql.tables import devices
from runtime.sql.within import DEVICES, within

_CHUNK: Final = 500
_OF_DEVICE: Final = tuple(devices.c[name] for name in ("hospital_id", "device_id", "ward_id", "bed_id", "model"))
_AMONG: Final = (
    select(devices.c.hospital_id, devices.c.device_id)
    .join(isolations, isolations.c.device_handle == devices.c.handle)
    .where(isolations.c.released_us.is_(None), devices.c.handle.in_(bindparam("handles", expanding=True)))
)


@dataclass(frozen=True, slots=True)
class Isolated:
    """An isolation in short: of which device, and from when until when (None: it is in force)."""

    number: int
    handle: int
    isolated_us: int
    released_us: int | None


def isolate(
    engine: Engine, author: Author, handle: int, *, confirmed_by: str | None = None, known: Collection[str] = (),
    revoke: bool = False,
) -> Row:  # fmt: skip
    """Cut a device off from now on. `known`: the patients of whom `confirmed_by` knows; `revoke`: its credentials end for good.

    One that is retired too: a gateway may go on speaking for it. Raises NotFound, InvalidInput without a reason,
    PatientAttached when somebody else is on it, and Conflict when it is cut off already.
    """
    _check_reason(author)
    with writing(engine) as connection:
        device, name = _device(connection, handle)
        if _in_force(connection, handle) is not None:
            raise Conflict(f"device {name} is isolated already: release it first")
        found = attached(connection, handle, author.now_us)
        check_known(name, found, known if confirmed_by is not None else ())
        if revoke:
            _revoke_all(connection, device, author.now_us)
        row: Row = {
            "device_handle": handle, "isolated_us": author.now_us, "isolated_by": author.who,
            "patients": len({one.patient_key for one in found}),
            "confirmed_by": confirmed_by if found else None, "credentials_revoked": revoke, "released_us": None,
            "released_by": None, "release_reason": None,
        }  # fmt: skip
        row["id"] = _insert(connection, row, device, author)
        tell_hosts(connection, author, device["hospital_id"], message_of(row, device["hospital_id"], carried(found, handle)))
        detail = {name: row[name] for name in ("id", "patients", "confirmed_by", "credentials_revoked")}
        log_write(connection, author, "device.isolate", name, detail)
        return _of(device) | row | {"reason": author.reason}


def _revoke_all(connection: Connection, device: Row, now_us: int) -> None:
    """Whatever the device could prove with who it is ends for good."""
    values = {"token_digest": None, "token_made_us": None, "token_made_by": None, "version": device["version"] + 1}
    connection.execute(update(devices).where(devices.c.handle == device["handle"]).values(values))
    for table in (device_certificates, claim_codes):
        good = table.c.handle == device["handle"], table.c.revoked_us.is_(None)
        connection.execute(update(table).where(*good).values(revoked_us=now_us))


def release(engine: Engine, author: Author, handle: int) -> Row:
    """Undo it. Raises NotFound, InvalidInput without a reason, Conflict when the device is not isolated."""
    _check_reason(author)
    with writing(engine) as connection:
        device, name = _device(connection, handle)
        row = _end(connection, author, device)
        if row is None:
            raise Conflict(f"device {name} is not isolated")
        return _opened(connection, [_of(device) | row])[0]


def _end(connection: Connection, author: Author, device: Row) -> Row | None:
    """End the isolation that is in force of a device, if one is."""
    row = _in_force(connection, device["handle"])
    if row is None:
        return None
    sealed = shut_text(connection, _owner(device), place_of_isolation(row, "release_reason"), author.reason)
    row |= {"released_us": author.now_us, "released_by": author.who, "release_reason": sealed}
    change = update(isolations).where(isolations.c.id == row["id"])
    connection.execute(change.values({name: row[name] for name in ("released_us", "released_by", "release_reason")}))
    tell_hosts(connection, author, device["hospital_id"], message_of(row, device["hospital_id"], []))
    log_write(connection, author, "device.release", name_of(device), {"id": row["id"]})
    return row


def list_isolations(  # noqa: PLR0913 (one filter each)
    engine: Engine, *, reach: Reach, limit: int, after: tuple[Any, ...] | None = None, handle: int | None = None,
    hospital_id: str | None = None, ward_id: str | None = None, in_force: bool = False,
) -> Page:  # fmt: skip
    """Isolations of devices within `reach`, the newest first."""
    query = select(isolations, *_OF_DEVICE).join(devices, devices.c.handle == isolations.c.device_handle)
    query = query.where(within(reach, DEVICES))
    if handle is not None:
        query = query.where(isolations.c.device_handle == handle)
    query = _of_place(query, hospital_id, ward_id)
    if in_force:
        query = query.where(isolations.c.released_us.is_(None))
    with reading(engine) as connection:
        found = page(connection, query, [isolations.c.id], limit=limit, after=after, descending=True)
        return Page(_opened(connection, found.rows), found.after)


def isolated_handles(engine: Engine) -> frozenset[int]:
    """The devices that are cut off now: few, and all that doors need to know. Raises Unavailable."""
    with reading(engine) as connection:
        query = select(isolations.c.device_handle).where(isolations.c.released_us.is_(None))
        return frozenset(connection.execute(query).scalars())


def all_orders(engine: Engine) -> list[Isolated]:
    """Every isolation there was, in short: people give these orders, so they are few. Raises Unavailable."""
    columns = (isolations.c.id, isolations.c.device_handle, isolations.c.isolated_us, isolations.c.released_us)
    with reading(engine) as connection:
        return [Isolated(*row) for row in connection.execute(select(*columns))]


def isolated_among(engine: Engine, handles: Sequence[int]) -> list[str]:
    """The names of those of these devices that are cut off now."""
    names: list[str] = []
    with reading(engine) as connection:
        for start in range(0, len(handles), _CHUNK):
            part = {"handles": handles[start : start + _CHUNK]}
            names += [f"{row.hospital_id}/{row.device_id}" for row in connection.execute(_AMONG, part)]
    return names


def blocked_addresses(engine: Engine, *, reach: Reach, hospital_id: str | None = None, ward_id: str | None = None) -> list[str]:
    """From where isolated devices within `reach` came last; without addresses from where others come, too."""
    other = sightings.alias("other")
    shared = select(other.c.device_handle).where(other.c.address == sightings.c.address, ~is_isolated(other.c.device_handle))
    query = select(sightings.c.address).distinct().join(devices, devices.c.handle == sightings.c.device_handle)
    query = query.where(is_isolated(devices.c.handle), within(reach, DEVICES), ~shared.exists(), sightings.c.address != "")
    query = _of_place(query, hospital_id, ward_id)
    with reading(engine) as connection:
        return sorted(connection.execute(query).scalars())


def message_of(row: Row, hospital_id: str, carried: list[int]) -> DeviceIsolated:
    """What hosts are told of an isolation."""
    return DeviceIsolated(
        hospital_id, row["device_handle"], row["id"], row["isolated_us"], row["isolated_by"], row["confirmed_by"],
        row["released_us"] is not None, carried,
    )  # fmt: skip


def _of_place(query: Select[Any], hospital_id: str | None, ward_id: str | None) -> Select[Any]:
    for column, value in (("hospital_id", hospital_id), ("ward_id", ward_id)):
        if value is not None:
            query = query.where(devices.c[column] == value)
    return query


def _device(connection: Connection, handle: int) -> tuple[Row, str]:
    """A device and its name. Raises NotFound."""
    device = one(connection, select(devices).where(devices.c.handle == handle), f"device with handle {handle}")
    return device, name_of(device)


def _check_reason(author: Author) -> None:
    if author.reason is None:
        raise InvalidInput("a device is isolated, and released, for a reason: say it in X-Reason")


def _in_force(connection: Connection, handle: int) -> Row | None:
    query = select(isolations).where(isolations.c.device_handle == handle, isolations.c.released_us.is_(None))
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else dict(row)


def _insert(connection: Connection, row: Row, device: Row, author: Author) -> int:
    sealed = shut_text(connection, _owner(device), place_of_isolation(row, "reason"), author.reason)
    key = connection.execute(insert(isolations).values(**row, reason=sealed)).inserted_primary_key
    assert key is not None
    return int(key[0])


def _owner(device: Row) -> Owner:
    return hospital_owner(device["hospital_id"], "isolations")


def _opened(connection: Connection, rows: list[Row]) -> list[Row]:
    for column in ("reason", "release_reason"):
        rows = open_texts(connection, rows, column, [place_of_isolation(row, column) for row in rows])
    return rows


def _of(device: Row) -> Row:
    return {column.name: device[column.name] for column in _OF_DEVICE}
