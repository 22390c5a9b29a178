"""Devices: registered one by one or many at once, each with a handle that is never used again."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, insert, select, update

from domain.errors import Conflict, InvalidInput, NotFound, VitalgridError
from domain.ids import parse_token
from domain.messages import DevicesRegistered
from domain.thing_catalogue import thing_model
from runtime.sql.engine import reading, writing
from runtime.sql.places import add_places
from runtime.sql.records import Author, Page, Row, change, log_write, one, page, shard_of, tell_hosts
from runtime.sql.tables import devices, handles, hospitals

IN_USE: Final = "in-use"
RETIRED: Final = "retired"
_PER_MESSAGE: Final = 20_000
_LOOKUP_CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class NewDevice:
    """A device to register. `with_token`: it connects by itself and is given a token."""

    device_id: str
    model: str
    ward_id: str | None = None
    bed_id: str | None = None
    gateway_id: str | None = None
    with_token: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RowReport:
    """What became of one row of an import: a handle and perhaps a token, or an error in words. Rows count from 1."""

    row: int
    device_id: str
    handle: int | None = None
    token: str | None = None
    error: str | None = None


def new_token() -> tuple[str, str]:
    """A token and what is stored of it (SHA-256, hex): tokens carry 256 random bits, so a plain digest is enough."""
    token = secrets.token_urlsafe(32)
    return token, token_digest(token)


def token_digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def register_device(engine: Engine, author: Author, hospital_id: str, device: NewDevice) -> tuple[Row, str | None]:
    """Register one device; returns its row and its token, shown this once. Raises InvalidInput, NotFound, Conflict."""
    with writing(engine) as connection:
        report = add_devices(connection, author, hospital_id, [device])[0]
        return one(connection, select(devices).where(devices.c.handle == report.handle), "device"), report.token


def import_devices(
    engine: Engine, author: Author, hospital_id: str, rows: Sequence[NewDevice], *, dry_run: bool = False
) -> list[RowReport]:
    """Register the rows that are right and report every one; with `dry_run` only report. Raises NotFound (hospital)."""
    with reading(engine) as connection:
        shard_of(connection, hospital_id)
        taken = _handles_of(connection, hospital_id, [row.device_id for row in rows])
        gateways = _handles_of(connection, hospital_id, [row.gateway_id for row in rows if row.gateway_id])
    reports: dict[int, RowReport] = {}
    seen: set[str] = set()
    carriers = set(gateways)
    for number, row in enumerate(rows, start=1):
        error = _fault_of(row, seen, taken, carriers)
        if error is not None:
            reports[number] = RowReport(number, row.device_id, error=error)
        seen.add(row.device_id)
        carriers.add(row.device_id)
    good = {number: row for number, row in enumerate(rows, start=1) if number not in reports}
    if dry_run or not good:
        return [reports.get(number) or RowReport(number, row.device_id) for number, row in enumerate(rows, start=1)]
    with writing(engine) as connection:
        made = add_devices(connection, author, hospital_id, list(good.values()))
    for number, report in zip(good, made, strict=True):
        reports[number] = RowReport(number, report.device_id, report.handle, report.token)
    return [reports[number] for number in sorted(reports)]


def add_devices(connection: Connection, author: Author, hospital_id: str, rows: Sequence[NewDevice]) -> list[RowReport]:
    """Register all rows, or none: raises InvalidInput, NotFound or Conflict for the first that is wrong.

    A gateway may stand in the same call before the devices it carries. Part of the caller's transaction; hosts are
    told through the outbox.
    """
    shard_of(connection, hospital_id)
    taken = _handles_of(connection, hospital_id, [row.device_id for row in rows])
    known = {**_handles_of(connection, hospital_id, [row.gateway_id for row in rows if row.gateway_id]), **taken}
    seen: set[str] = set()
    carriers = set(known)
    for row in rows:
        _raise_fault(row, seen, taken, carriers)
        seen.add(row.device_id)
        carriers.add(row.device_id)
    add_places(
        connection, hospital_id, {row.bed_id: row.ward_id for row in rows if row.bed_id}, {r.ward_id for r in rows if r.ward_id}
    )
    first = take_handles(connection, len(rows), "device")
    known |= {row.device_id: first + number for number, row in enumerate(rows)}
    issued = [new_token() if row.with_token else (None, None) for row in rows]
    values = [
        {
            "handle": known[row.device_id], "device_id": row.device_id, "hospital_id": hospital_id,
            "model": thing_model(row.model).id, "ward_id": row.ward_id, "bed_id": row.bed_id,
            "gateway_handle": known[row.gateway_id] if row.gateway_id else None, "token_sha256": digest,
            "status": IN_USE, "attributes": row.attributes, "created_us": author.now_us, "version": 1,
        }
        for row, (_, digest) in zip(rows, issued, strict=True)
    ]  # fmt: skip
    connection.execute(insert(devices), values)
    _announce(connection, author, hospital_id, values)
    log_write(connection, author, "device.register", f"{hospital_id}: {len(rows)} devices from handle {first}")
    return [
        RowReport(number, row.device_id, known[row.device_id], token)
        for number, (row, (token, _)) in enumerate(zip(rows, issued, strict=True), start=1)
    ]


def get_device(engine: Engine, handle: int) -> Row:
    """Raises NotFound."""
    with reading(engine) as connection:
        return one(connection, select(devices).where(devices.c.handle == handle), f"device with handle {handle}")


def find_device(engine: Engine, hospital_id: str, device_id: str) -> Row:
    """Raises NotFound."""
    query = select(devices).where(devices.c.hospital_id == hospital_id, devices.c.device_id == device_id)
    with reading(engine) as connection:
        return one(connection, query, f"device {device_id!r} of hospital {hospital_id!r}")


def list_devices(  # noqa: PLR0913 (one filter each)
    engine: Engine, *, limit: int, after: tuple[Any, ...] | None = None, hospital_id: str | None = None,
    ward_id: str | None = None, bed_id: str | None = None, model: str | None = None, status: str | None = None,
    text: str | None = None,
) -> Page:  # fmt: skip
    """By handle. `text` matches a part of the device id, in any case."""
    query = select(devices)
    for column, value in (("hospital_id", hospital_id), ("ward_id", ward_id), ("bed_id", bed_id), ("status", status)):
        if value is not None:
            query = query.where(devices.c[column] == value)
    if model is not None:
        query = query.where(devices.c.model == thing_model(model).id)
    if text is not None:
        query = query.where(func.lower(devices.c.device_id).contains(text.lower(), autoescape=True))
    with reading(engine) as connection:
        return page(connection, query, [devices.c.handle], limit=limit, after=after)


def devices_by_handle(engine: Engine, wanted: Sequence[int]) -> dict[int, Row]:
    """The rows of these handles that exist."""
    found: dict[int, Row] = {}
    with reading(engine) as connection:
        for start in range(0, len(wanted), _LOOKUP_CHUNK):
            query = select(devices).where(devices.c.handle.in_(list(wanted[start : start + _LOOKUP_CHUNK])))
            found |= {row["handle"]: dict(row) for row in connection.execute(query).mappings()}
    return found


def retire_device(engine: Engine, author: Author, handle: int, *, version: int | None) -> Row:
    """Take a device out of service: its token stops working, its readings stay. Raises NotFound, Conflict."""
    with writing(engine) as connection:
        values = {"status": RETIRED, "token_sha256": None}
        row = change(connection, devices, {"handle": handle}, values, version=version, what=f"device with handle {handle}")
        log_write(connection, author, "device.retire", f"{row['hospital_id']}/{row['device_id']}")
        return row


def move_device(
    engine: Engine, author: Author, handle: int, *, ward_id: str | None, bed_id: str | None, version: int | None
) -> Row:
    """Put a device in another ward and bed of its hospital. Raises NotFound, Conflict."""
    with writing(engine) as connection:
        values = {"ward_id": ward_id, "bed_id": bed_id}
        row = change(connection, devices, {"handle": handle}, values, version=version, what=f"device with handle {handle}")
        add_places(connection, row["hospital_id"], {bed_id: ward_id} if bed_id else {}, {ward_id} if ward_id else set())
        _announce(connection, author, row["hospital_id"], [row])
        log_write(connection, author, "device.move", f"{row['hospital_id']}/{row['device_id']}")
        return row


def rotate_token(engine: Engine, author: Author, handle: int) -> str:
    """Give a device a new token; the old one stops working. Raises NotFound, Conflict for a retired device."""
    token, digest = new_token()
    with writing(engine) as connection:
        row = one(connection, select(devices).where(devices.c.handle == handle), f"device with handle {handle}")
        if row["status"] == RETIRED:
            raise Conflict(f"device {row['device_id']!r} is retired and gets no token")
        values = {"token_sha256": digest, "version": row["version"] + 1}
        connection.execute(update(devices).where(devices.c.handle == handle).values(values))
        log_write(connection, author, "device.rotate-token", f"{row['hospital_id']}/{row['device_id']}")
    return token


def device_of_token(engine: Engine, digest: str) -> Row | None:
    """The device in service that holds the token of this digest, with its hospital's shard."""
    query = (
        select(devices, hospitals.c.shard)
        .join(hospitals, hospitals.c.id == devices.c.hospital_id)
        .where(devices.c.token_sha256 == digest, devices.c.status != RETIRED)
    )
    with reading(engine) as connection:
        row = connection.execute(query).mappings().one_or_none()
    return None if row is None else dict(row)


def take_handle(connection: Connection, kind: str) -> int:
    """One fresh handle."""
    return take_handles(connection, 1, kind)


def take_handles(connection: Connection, count: int, kind: str) -> int:
    """The first of `count` consecutive fresh handles."""
    if connection.dialect.name != "sqlite":  # SQLite's writer is alone anyway
        connection.exec_driver_sql("LOCK TABLE handles IN EXCLUSIVE MODE")
    result = connection.execute(insert(handles).values(kind=kind))
    key = result.inserted_primary_key
    assert key is not None
    first = int(key[0])
    if count > 1:
        connection.execute(insert(handles), [{"handle": first + n, "kind": kind} for n in range(1, count)])
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT setval(pg_get_serial_sequence('handles', 'handle'), {first + count - 1})")
    return first


def _announce(connection: Connection, author: Author, hospital_id: str, rows: Sequence[Row]) -> None:
    for start in range(0, len(rows), _PER_MESSAGE):
        part = rows[start : start + _PER_MESSAGE]
        tell_hosts(connection, author, hospital_id, DevicesRegistered(
            hospital_id=hospital_id, handles=[row["handle"] for row in part],
            device_ids=[row["device_id"] for row in part], models=[row["model"] for row in part],
            ward_ids=[row["ward_id"] for row in part], bed_ids=[row["bed_id"] for row in part],
        ))  # fmt: skip


def _handles_of(connection: Connection, hospital_id: str, device_ids: Sequence[str]) -> dict[str, int]:
    wanted = sorted(set(device_ids))
    if len(wanted) > 20 * _LOOKUP_CHUNK:
        query = select(devices.c.device_id, devices.c.handle).where(devices.c.hospital_id == hospital_id)
        everything = {row.device_id: row.handle for row in connection.execute(query)}
        return {device_id: everything[device_id] for device_id in wanted if device_id in everything}
    found: dict[str, int] = {}
    for start in range(0, len(wanted), _LOOKUP_CHUNK):
        query = select(devices.c.device_id, devices.c.handle).where(
            devices.c.hospital_id == hospital_id, devices.c.device_id.in_(wanted[start : start + _LOOKUP_CHUNK])
        )
        found |= {row.device_id: row.handle for row in connection.execute(query)}
    return found


def _fault_of(row: NewDevice, seen: set[str], taken: dict[str, int], carriers: set[str]) -> str | None:
    try:
        _raise_fault(row, seen, taken, carriers)
    except VitalgridError as error:
        return str(error)
    return None


def _raise_fault(row: NewDevice, seen: set[str], taken: dict[str, int], carriers: set[str]) -> None:
    parse_token(row.device_id, "device id")
    thing_model(row.model)
    if row.device_id in taken:
        raise Conflict(f"device {row.device_id!r} exists already")
    if row.device_id in seen:
        raise InvalidInput(f"device {row.device_id!r} stands twice in the same list")
    if row.gateway_id and row.gateway_id not in carriers:
        raise NotFound(f"gateway {row.gateway_id!r} of device {row.device_id!r} is unknown: register it first")
