"""Devices: registered one by one or by a list, moved, retired; their live state. Clauses 5.4a, 8.1."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response

from api.asking import Asking, Unplaced
from api.device_lists import import_list, read_device_list
from api.errors import PreconditionRequired, problems
from api.given import given
from api.isolation import who_knows
from api.locators import in_hospital, makes_wards, moved_to, near_ward, of_device, of_device_readings, of_list, readings_now
from api.paging import Page, PagedByNumber
from api.permissions import may, may_list, may_where_body_says
from api.preconditions import ExpectedVersion, set_etag
from api.readable import readable
from api.routes.router import api_router
from api.schemas.devices import (
    IMPORT_BODY,
    DeviceChange,
    DeviceIn,
    DeviceOut,
    DeviceRegistered,
    DeviceShown,
    ImportReport,
    TokenOut,
)
from api.selection import judge_device
from api.services import Backend, Behind
from api.shown_readings import shown_state
from api.times import In
from domain.errors import Conflict, InvalidInput, NotFound, PatientAttached, StaleVersion, Unavailable
from domain.ids import ActorKind, Address, parse_hospital_id, parse_token
from domain.messages import DescribeActor
from domain.permissions import Action, Reach
from runtime.sql import devices
from runtime.sql.attached import Known
from runtime.sql.isolations import isolated_among
from runtime.sql.records import Row

router = api_router("/devices", tags=["devices"])
DeviceList = Annotated[Asking, may_list(Action.DEVICE_READ, at=near_ward)]
DeviceRegister = Annotated[Unplaced, may_where_body_says(Action.DEVICE_MANAGE)]
DeviceImport = Annotated[Asking, may(Action.DEVICE_MANAGE, at=of_list("devices"))]
DeviceRead = Annotated[Asking, may(Action.DEVICE_READ, at=of_device)]
DeviceReadings = Annotated[Asking, may(Action.READING_READ, at=of_device_readings)]
DeviceManage = Annotated[Asking, may(Action.DEVICE_MANAGE, at=of_device)]
DeviceCredential = Annotated[Asking, may(Action.DEVICE_CREDENTIAL, at=of_device)]
_UPDATE = problems(NotFound, PreconditionRequired, StaleVersion, InvalidInput, PatientAttached)
_CUTS = problems(NotFound, InvalidInput, Conflict, PatientAttached)


async def _device(hospital_id: str, device_id: str, behind: Behind) -> Row:
    """The device that the path names. Raises NotFound."""
    return await behind.read(devices.find_device, behind.engine, hospital_id, device_id)


Named = Annotated[Row, Depends(_device)]


async def _who_knows(
    device: Named,
    behind: Behind,
    confirmed_by: Annotated[
        str | None,
        Query(
            max_length=64,
            description="User name of a doctor, nurse or head of the ward who knows that the device is cut off. Needed where a "
            "patient is on it, or on what it carries.",
        ),
    ] = None,
) -> Known:
    """See `api.isolation.who_knows`."""
    services = behind.services
    return await behind.read(who_knows, behind.engine, services.authoriser, device, confirmed_by, services.clock.now_us())


WhoKnows = Annotated[Known, Depends(_who_knows)]


@dataclass(frozen=True)
class DeviceFilter:
    """Which devices; whatever is left out does not matter."""

    hospital: Annotated[str | None, Query()] = None
    ward: Annotated[str | None, Query()] = None
    bed: Annotated[str | None, Query()] = None
    model: Annotated[str | None, Query()] = None
    status: Annotated[str | None, Query(description="`in-use` or `retired`.")] = None
    q: Annotated[str | None, Query(description="Part of the device id.", max_length=64)] = None


@router.get("", responses=problems(NotFound))
async def list_devices(
    who: DeviceList, behind: Behind, paged: PagedByNumber, zone: In, wanted: Annotated[DeviceFilter, given(DeviceFilter)]
) -> Page[DeviceOut]:
    """The devices that you may see, in the order of their registration."""
    found = await behind.read(
        devices.list_devices, behind.engine, reach=who.reach, limit=paged.limit, after=paged.after,
        hospital_id=wanted.hospital, ward_id=wanted.ward, bed_id=wanted.bed, model=wanted.model, status=wanted.status,
        text=wanted.q,
    )  # fmt: skip
    return paged.page([DeviceOut.of(row, zone) for row in found.rows], found.after)


@router.post("", status_code=201, responses=problems(NotFound, InvalidInput, Conflict))
async def register_device(
    who: DeviceRegister, body: DeviceIn, behind: Behind, zone: In, response: Response
) -> DeviceRegistered:
    """Register one device. Its token, if it gets one, is shown this once."""
    permitted = who.at(await in_hospital(behind, "devices", body.hospital_id, body.ward_id))
    author, may_make = behind.author(permitted), await makes_wards(behind, permitted, body.hospital_id)
    row, token = await behind.tell(
        devices.register_device, behind.engine, author, body.hospital_id, body.to_new(), makes_wards=may_make
    )  # fmt: skip
    set_etag(response, row["version"])
    return DeviceRegistered(device=DeviceOut.of(row, zone), token=token)


@router.post("/import", openapi_extra=IMPORT_BODY, responses=problems(NotFound, InvalidInput))
async def import_devices(
    who: DeviceImport,
    request: Request,
    behind: Behind,
    hospital: Annotated[str, Query(description="The hospital that all of them belong to.")],
    dry_run: Annotated[bool, Query(description="Only say what would happen.")] = False,
) -> ImportReport:
    """Register a list of devices (CSV or JSON): those that are right, with a report on every row."""
    rows = await behind.lanes.codec(read_device_list, await request.body(), request.headers.get("content-type", ""))
    may_make = await makes_wards(behind, who, hospital)
    register = partial(
        devices.import_devices, behind.engine, behind.author(who), hospital, dry_run=dry_run, makes_wards=may_make
    )  # fmt: skip
    reports = await behind.tell(import_list, rows, register)
    return ImportReport.of(reports, dry_run=dry_run)


@router.get("/{hospital_id}/{device_id}", responses=problems(NotFound))
async def show_device(who: DeviceRead, device: Named, behind: Behind, zone: In, response: Response) -> DeviceShown:
    """One device, with what its shard holds of it now."""
    set_etag(response, device["version"])
    shown = DeviceOut.of(device, zone)
    isolated = bool(await behind.read(isolated_among, behind.engine, [device["handle"]]))
    measured = await readings_now(behind, device["hospital_id"], device["device_id"])
    if measured is None or not who.may(Action.READING_READ, measured):
        return DeviceShown(
            device=shown,
            is_isolated=isolated,
            live=None,
            live_unavailable=f"{who.caller.principal.name} may not reading.read there",
        )
    who.shows([measured.patient_key])
    try:
        live = await _live_state(behind, device["hospital_id"], device["device_id"], who.reach_of(Action.READING_READ))
        return DeviceShown(device=shown, is_isolated=isolated, live=readable(live, zone))
    except (Unavailable, NotFound) as error:
        return DeviceShown(device=shown, is_isolated=isolated, live=None, live_unavailable=str(error))


@router.get("/{hospital_id}/{device_id}/state", responses=problems(NotFound, Unavailable))
async def show_state(who: DeviceReadings, hospital_id: str, device_id: str, behind: Behind, zone: In) -> dict[str, Any]:
    """The live state of a device and its channels, asked of the host that holds it.

    A channel that delivered nothing since the device was on somebody whom you may not see has no value and no times.
    """
    shown: dict[str, Any] = readable(await _live_state(behind, hospital_id, device_id, who.reach), zone)
    return shown


@router.patch("/{hospital_id}/{device_id}", responses=_UPDATE)
async def update_device(  # noqa: PLR0913 (each is given by FastAPI)
    who: DeviceManage, body: DeviceChange, device: Named, behind: Behind, version: ExpectedVersion, *, zone: In,
    known: WhoKnows, response: Response,
) -> DeviceOut:  # fmt: skip
    """Change a device's ward or bed (a move, by who may do so in both wards), status or attributes.

    `needs_certificate` ends the way in by token alone: while the device is on a patient somebody who knows has to be named.
    """
    values, hospital_id = body.model_dump(exclude_unset=True), device["hospital_id"]
    may_make = False
    if "ward_id" in values:
        found = await of_device(hospital_id, device["device_id"], behind)
        who.also(await moved_to(behind, found, values["ward_id"]))
        may_make = await makes_wards(behind, who, hospital_id)
    row = await behind.tell(
        devices.update_device, behind.engine, behind.author(who), device["handle"], values, version=version, known=known,
        makes_wards=may_make,
    )  # fmt: skip
    if "level" in values:
        behind.levels_changed()
    if "needs_certificate" in values:
        await behind.doors_told()
    set_etag(response, row["version"])
    return DeviceOut.of(row, zone)


@router.post("/{hospital_id}/{device_id}/retire", responses=_UPDATE)
async def retire_device(
    who: DeviceManage, device: Named, behind: Behind, version: ExpectedVersion, zone: In, known: WhoKnows, response: Response
) -> DeviceOut:
    """Take a device out of service. Its token stops working, its connection is ended, its readings stay.

    Not while it is on a patient: end the association first. Of a gateway that carries what is on patients somebody who knows
    has to be named. An isolated device stays isolated.
    """
    row = await behind.tell(
        devices.retire_device, behind.engine, behind.author(who), device["handle"], version=version, known=known
    )
    await behind.doors_told()
    set_etag(response, row["version"])
    return DeviceOut.of(row, zone)


@router.post("/{hospital_id}/{device_id}/token", status_code=201, responses=_CUTS)
async def rotate_token(who: DeviceCredential, device: Named, behind: Behind, known: WhoKnows) -> TokenOut:
    """Give a device a new token; the old one stops working at once, and a connection that came with it is ended.

    While a patient is on it, or on what it carries, somebody who knows has to be named (409 `patient-attached`).
    """
    token = await behind.write(devices.rotate_token, behind.engine, behind.author(who), device["handle"], known)
    await behind.doors_told()
    return TokenOut(token=token)


async def _live_state(behind: Backend, hospital_id: str, device_id: str, reach: Reach) -> dict[str, Any]:
    """What of it is within `reach`: judged after the host answered, so that whoever it is on by now is known."""
    address = Address(ActorKind.DEVICE, parse_hospital_id(hospital_id), parse_token(device_id, "device id"))
    state = await behind.post.ask(address, DescribeActor())
    return shown_state(state, await behind.read(judge_device, behind.engine, state["handle"], reach=reach))
