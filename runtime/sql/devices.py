"""Devices: registered one by one or many at once, each with a handle that is never used again. Clauses 5.1, 8.1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Engine, and_, bindparam, delete, func, insert, select

from domain.errors import Conflict, InvalidInput, NotFound, PatientAttached, VitalgridError
from domain.ids import parse_token
from domain.messages import DevicesRegistered, MaintenanceSet
from domain.permissions import Reach
from domain.thing_catalogue import thing_model
from runtime.sql.attached import NOBODY_KNOWS, Known, attached, check_cut_off, cut_off_by_tokens, name_of, on_patients
from runtime.sql.credential_tables import credential_uses
from runtime.sql.engine import reading, writing
from runtime.sql.handles import take_handles
from runtime.sql.isolation_tables import is_isolated
from runtime.sql.places import add_places, unknown_ward, ward_ids
from runtime.sql.records import (
    Author,
    Page,
    Row,
    change,
    check_fields,
    check_json,
    check_level,
    log_write,
    one,
    page,
    shard_of,
    tell_hosts,
)
from runtime.sql.tables import devices, hospitals
from runtime.sql.within import DEVICES, within
from runtime.tokens import digests_of, new_token

IN_USE: Final = "in-use"
MAINTENANCE: Final = "maintenance"  # in the workshop; whether it may alarm is said by maintenance windows
RETIRED: Final = "retired"
_FIELDS: Final = ("ward_id", "bed_id", "status", "attributes", "level", "needs_certificate")
FOR_EVER_US: Final = 2**62
_PER_MESSAGE: Final = 20_000
_LOOKUP_CHUNK: Final = 500
IN_SERVICE: Final = and_(devices.c.status != RETIRED, ~is_isolated(devices.c.handle))  # whose credentials are good
_NAMED: Final = select(devices).where(
    devices.c.hospital_id == bindparam("hospital"), devices.c.device_id == bindparam("device")
)


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


def register_device(
    engine: Engine, author: Author, hospital_id: str, device: NewDevice, *, makes_wards: bool = True
) -> tuple[Row, str | None]:
    """Register one device; returns its row and its token, shown this once. Raises InvalidInput, NotFound, Conflict.

    Here and below, without `makes_wards` a ward that does not exist is NotFound.
    """
    with writing(engine) as connection:
        report = add_devices(connection, author, hospital_id, [device], makes_wards=makes_wards)[0]
        return one(connection, select(devices).where(devices.c.handle == report.handle), "device"), report.token


def import_devices(
    engine: Engine, author: Author, hospital_id: str, rows: Sequence[NewDevice], *, dry_run: bool = False,
    makes_wards: bool = True,
) -> list[RowReport]:  # fmt: skip
    """Register the rows that are right and report every one; with `dry_run` only report. Raises NotFound (hospital)."""
    with reading(engine) if dry_run else writing(engine) as connection:
        shard_of(connection, hospital_id)
        check = _RowCheck(connection, hospital_id, rows, makes_wards=makes_wards)
        errors = {number: error for number, row in enumerate(rows) if (error := check.fault_of(row)) is not None}
        good = [number for number in range(len(rows)) if number not in errors]
        made = {} if dry_run else dict(zip(good, _insert(connection, author, hospital_id, check, rows, good), strict=True))
    return [
        made.get(number) or RowReport(number + 1, row.device_id, error=errors.get(number)) for number, row in enumerate(rows)
    ]


def add_devices(
    connection: Connection, author: Author, hospital_id: str, rows: Sequence[NewDevice], *, makes_wards: bool = True
) -> list[RowReport]:
    """Register all rows, or none: raises InvalidInput, NotFound or Conflict for the first that is wrong.

    A gateway may stand in the same call before the devices it carries. Part of the caller's transaction; hosts are
    told through the outbox.
    """
    shard_of(connection, hospital_id)
    check = _RowCheck(connection, hospital_id, rows, makes_wards=makes_wards)
    for row in rows:
        check.take(row)
    return _insert(connection, author, hospital_id, check, rows, range(len(rows)))


def get_device(engine: Engine, handle: int) -> Row:
    """Raises NotFound."""
    with reading(engine) as connection:
        return one(connection, select(devices).where(devices.c.handle == handle), f"device with handle {handle}")


def find_device(engine: Engine, hospital_id: str, device_id: str) -> Row:
    """Raises NotFound."""
    name = {"hospital": hospital_id, "device": device_id}
    with reading(engine) as connection:
        return one(connection, _NAMED, f"device {device_id!r} of hospital {hospital_id!r}", name)


def list_devices(  # noqa: PLR0913 (one filter each)
    engine: Engine, *, reach: Reach, limit: int, after: tuple[Any, ...] | None = None, hospital_id: str | None = None,
    ward_id: str | None = None, bed_id: str | None = None, model: str | None = None, status: str | None = None,
    text: str | None = None,
) -> Page:  # fmt: skip
    """Those within `reach` by handle. `text` matches a part of the device id, in any case."""
    query = select(devices).where(within(reach, DEVICES))
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


def retire_device(
    engine: Engine, author: Author, handle: int, *, version: int | None, known: Known = NOBODY_KNOWS
) -> Row:  # fmt: skip
    """Take a device out of service for good: its credentials stop working, and it alarms no more.

    Its readings stay, and its handle and id are not used again. One that is isolated stays so until it is released: a
    gateway may go on speaking for it. Raises NotFound, StaleVersion, Conflict when it is retired already, and
    PatientAttached when it is on a patient, or carries what is on one of whom nobody of the ward is `known` to know.
    """
    with writing(engine) as connection:
        detail = _check_retired(connection, author, handle, known)
        values = {"status": RETIRED, "token_digest": None, "token_made_us": None, "token_made_by": None}
        row = _change_in_service(connection, handle, values, version)
        quiet = MaintenanceSet(row["hospital_id"], author.now_us, FOR_EVER_US, handle)
        tell_hosts(connection, author, row["hospital_id"], quiet)
        log_write(connection, author, "device.retire", name_of(row), detail)
        return row


def _check_retired(connection: Connection, author: Author, handle: int, known: Known) -> Row:
    """As `check_cut_off`. Whoever is on the device itself has to leave it first: retired, it would be on nobody, and nothing
    would say that they are not monitored any more.
    """
    device = _device(connection, handle)
    if any(one.handle == handle for one in attached(connection, handle, author.now_us)):
        raise PatientAttached(f"device {name_of(device)} is on a patient: end the association first, then retire it")
    return check_cut_off(connection, device, author.now_us, known)


def update_device(
    engine: Engine, author: Author, handle: int, values: dict[str, Any], *, version: int | None, known: Known = NOBODY_KNOWS,
    makes_wards: bool = True,
) -> Row:  # fmt: skip
    """Change ward, bed, status (in use or in maintenance) or attributes (firmware, serial number, UDI, …).

    Raises InvalidInput, NotFound, StaleVersion, Conflict when it is retired, and PatientAttached when it would need a
    certificate from now on and is on a patient of whom nobody of the ward is `known` to know.
    """
    check_fields("device", values, _FIELDS)
    check_json(values.get("attributes"), "attributes")
    check_level("devices", values.get("level"))
    if values.get("status", IN_USE) not in (IN_USE, MAINTENANCE):
        raise InvalidInput(
            f"status {values['status']!r} is not {IN_USE!r} or {MAINTENANCE!r}; a device is retired by retiring it"
        )
    with writing(engine) as connection:
        detail = dict(values)
        if values.get("needs_certificate") and not _device(connection, handle)["needs_certificate"]:
            detail |= check_cut_off(connection, _device(connection, handle), author.now_us, known)
        row = _change_in_service(connection, handle, values, version)
        if "ward_id" in values or "bed_id" in values:
            ward_id, bed_id = row["ward_id"], row["bed_id"]
            beds, wards = {bed_id: ward_id} if bed_id else {}, {ward_id} if ward_id else set()
            add_places(connection, row["hospital_id"], beds, wards, makes_wards=makes_wards)
            _announce(connection, author, row["hospital_id"], [row])
        log_write(connection, author, "device.update", name_of(row), detail)
        return row


def move_device(
    engine: Engine, author: Author, handle: int, *, ward_id: str | None, bed_id: str | None, version: int | None
) -> Row:
    """Put a device in another ward and bed of its hospital. Errors as `update_device`."""
    return update_device(engine, author, handle, {"ward_id": ward_id, "bed_id": bed_id}, version=version)


def rotate_token(engine: Engine, author: Author, handle: int, known: Known = NOBODY_KNOWS) -> str:
    """Give a device a new token; the old one stops working.

    Raises NotFound, Conflict for a retired device, and PatientAttached when it has a token and is on a patient, or carries
    what is, of whom nobody of the ward is `known` to know: it is cut off until somebody gives it the new one.
    """
    with writing(engine) as connection:
        device = _device(connection, handle)
        cuts_off = device["token_digest"] is not None  # a first token ends nothing
        detail = check_cut_off(connection, device, author.now_us, known) if cuts_off else None
        return replace_token(connection, author, handle, detail)


def replace_token(connection: Connection, author: Author, handle: int, detail: Row | None = None) -> str:
    """As `rotate_token`, whoever is on it: the device itself asks, or it was looked. Part of the caller's transaction."""
    token, digest = new_token()
    values = {"token_digest": digest, "token_made_us": author.now_us, "token_made_by": author.who}
    row = _change_in_service(connection, handle, values, None)
    of_tokens = credential_uses.c.handle == handle, credential_uses.c.credential.not_like("sha256:%")
    connection.execute(delete(credential_uses).where(*of_tokens))  # that it had before
    log_write(connection, author, "device.rotate-token", name_of(row), detail)
    return token


def rotate_tokens(
    engine: Engine, author: Author, hospital_id: str, device_ids: Sequence[str], *, even_on_patients: bool = False
) -> dict[str, str]:
    """As `rotate_token`, of many devices of a hospital, by their ids: all or none.

    Each is cut off until somebody gives it its new token: raises PatientAttached for those that are on a patient, or carry
    what is, unless they are meant (`even_on_patients`).
    """
    made: dict[str, str] = {}
    with writing(engine) as connection:
        known = _known_devices(connection, hospital_id, device_ids)
        worn = on_patients(connection, [row["handle"] for row in known.values()], author.now_us)
        if worn and not even_on_patients:
            raise cut_off_by_tokens(worn)
        detail = {"even_on_patients": len(worn)} if worn else None
        for device_id in dict.fromkeys(device_ids):
            if device_id not in known:
                raise NotFound(f"device {device_id!r} of hospital {hospital_id!r} is unknown")
            made[device_id], digest = new_token()
            values = {"token_digest": digest, "token_made_us": author.now_us, "token_made_by": author.who}
            _change_in_service(connection, known[device_id]["handle"], values, None)
            log_write(connection, author, "device.rotate-token", f"{hospital_id}/{device_id}", detail)
    return made


def device_of_token(engine: Engine, token: str) -> Row | None:
    """The device in service that holds this token, with its hospital's shard."""
    return devices_of_tokens(engine, [token]).get(token)


def devices_of_tokens(engine: Engine, tokens: Sequence[str]) -> dict[str, Row]:
    """As `device_of_token`, of those tokens that a device holds."""
    token_of = {digest: token for token in tokens for digest in digests_of(token)}
    digests = list(token_of)
    found: dict[str, Row] = {}
    with reading(engine) as connection:
        for start in range(0, len(digests), _LOOKUP_CHUNK):
            query = (
                select(devices, hospitals.c.shard)
                .join(hospitals, hospitals.c.id == devices.c.hospital_id)
                .where(devices.c.token_digest.in_(digests[start : start + _LOOKUP_CHUNK]), IN_SERVICE)
            )
            found |= {token_of[row["token_digest"]]: dict(row) for row in connection.execute(query).mappings()}
    return found


def take_handle(connection: Connection, kind: str) -> int:
    """One fresh handle."""
    return take_handles(connection, 1, kind)


class _RowCheck:
    """Looks at rows one after the other: each against the database and the rows before it."""

    def __init__(
        self, connection: Connection, hospital_id: str, rows: Sequence[NewDevice], *, makes_wards: bool
    ) -> None:  # fmt: skip
        self.hospital_id = hospital_id
        self.makes_wards = makes_wards
        self._wards = ward_ids(connection, hospital_id)
        gateway_ids = {row.gateway_id for row in rows if row.gateway_id}
        self.known = _known_devices(connection, hospital_id, {row.device_id for row in rows} | gateway_ids)
        self._models = {device_id: row["model"] for device_id, row in self.known.items()}

    def take(self, row: NewDevice) -> None:
        """Raise InvalidInput, NotFound or Conflict, or count the row among those that later ones may build on."""
        parse_token(row.device_id, "device id")
        check_json(row.attributes, "attributes")
        for place, what in ((row.ward_id, "ward id"), (row.bed_id, "bed id")):
            if place is not None:
                parse_token(place, what)
        if not self.makes_wards and row.ward_id is not None and row.ward_id not in self._wards:
            raise unknown_ward(self.hospital_id, row.ward_id)
        model = thing_model(row.model).id
        if row.device_id in self.known:
            raise Conflict(f"device {row.device_id!r} of hospital {self.hospital_id!r} exists already")
        if row.device_id in self._models:
            raise InvalidInput(f"device {row.device_id!r} stands twice in the same list")
        if row.gateway_id is not None:
            self._check_gateway(row.device_id, row.gateway_id)
        self._models[row.device_id] = model

    def fault_of(self, row: NewDevice) -> str | None:
        """As `take`, but what is wrong comes back in words."""
        try:
            self.take(row)
        except VitalgridError as error:
            return str(error)
        return None

    def _check_gateway(self, device_id: str, gateway_id: str) -> None:
        if gateway_id not in self._models:
            raise NotFound(f"gateway {gateway_id!r} of device {device_id!r} is unknown: register it first")
        if thing_model(self._models[gateway_id]).channels:
            raise InvalidInput(f"gateway {gateway_id!r} of device {device_id!r} is a {self._models[gateway_id]}, not a gateway")


def _insert(
    connection: Connection, author: Author, hospital_id: str, check: _RowCheck, rows: Sequence[NewDevice], good: Sequence[int]
) -> list[RowReport]:  # fmt: skip
    """Add the `good` ones of `rows`, which were checked."""
    if not good:
        return []
    chosen = [rows[number] for number in good]
    wards = {row.ward_id for row in chosen if row.ward_id}
    beds = {row.bed_id: row.ward_id for row in chosen if row.bed_id}
    add_places(connection, hospital_id, beds, wards, makes_wards=check.makes_wards)
    first = take_handles(connection, len(chosen), "device")
    handle_of = {device_id: row["handle"] for device_id, row in check.known.items()}
    handle_of |= {row.device_id: first + number for number, row in enumerate(chosen)}
    issued = [new_token() if row.with_token else (None, None) for row in chosen]
    values = [
        {
            "handle": handle_of[row.device_id], "device_id": row.device_id, "hospital_id": hospital_id,
            "model": thing_model(row.model).id, "ward_id": row.ward_id, "bed_id": row.bed_id,
            "gateway_handle": handle_of[row.gateway_id] if row.gateway_id else None, "token_digest": digest,
            "token_made_us": author.now_us if digest else None, "token_made_by": author.who if digest else None,
            "status": IN_USE, "attributes": row.attributes, "created_us": author.now_us, "version": 1,
        }
        for row, (_, digest) in zip(chosen, issued, strict=True)
    ]  # fmt: skip
    connection.execute(insert(devices), values)
    _announce(connection, author, hospital_id, values)
    log_write(connection, author, "device.register", f"{hospital_id}: {len(chosen)} devices from handle {first}")
    return [
        RowReport(number + 1, row.device_id, handle_of[row.device_id], token)
        for number, row, (token, _) in zip(good, chosen, issued, strict=True)
    ]


def _device(connection: Connection, handle: int) -> Row:
    return one(connection, select(devices).where(devices.c.handle == handle), f"device with handle {handle}")


def _change_in_service(connection: Connection, handle: int, values: dict[str, Any], version: int | None) -> Row:
    what = f"device with handle {handle}"
    before = one(connection, select(devices.c.status).where(devices.c.handle == handle), what)
    if before["status"] == RETIRED:
        raise Conflict(f"{what} is retired: register another one")
    return change(connection, devices, {"handle": handle}, values, version=version, what=what)


def registered(hospital_id: str, rows: Sequence[Row]) -> list[DevicesRegistered]:
    """What hosts need to know of devices of one hospital, in messages of a size that a stream takes."""
    parts = [rows[start : start + _PER_MESSAGE] for start in range(0, len(rows), _PER_MESSAGE)]
    return [
        DevicesRegistered(
            hospital_id=hospital_id, handles=[row["handle"] for row in part],
            device_ids=[row["device_id"] for row in part], models=[row["model"] for row in part],
            ward_ids=[row["ward_id"] for row in part], bed_ids=[row["bed_id"] for row in part],
        )
        for part in parts
    ]  # fmt: skip


def _announce(connection: Connection, author: Author, hospital_id: str, rows: Sequence[Row]) -> None:
    tell_hosts(connection, author, hospital_id, *registered(hospital_id, rows))


def _known_devices(connection: Connection, hospital_id: str, device_ids: Iterable[str]) -> dict[str, Row]:
    """Handle and model of those that exist; many are looked for among all of the hospital, few one by one."""
    wanted = sorted(device_ids)
    query = select(devices.c.device_id, devices.c.handle, devices.c.model).where(devices.c.hospital_id == hospital_id)
    if len(wanted) > 20 * _LOOKUP_CHUNK:
        sought = set(wanted)
        return {row["device_id"]: dict(row) for row in connection.execute(query).mappings() if row["device_id"] in sought}
    found: dict[str, Row] = {}
    for start in range(0, len(wanted), _LOOKUP_CHUNK):
        part = query.where(devices.c.device_id.in_(wanted[start : start + _LOOKUP_CHUNK]))
        found |= {row["device_id"]: dict(row) for row in connection.execute(part).mappings()}
    return found
