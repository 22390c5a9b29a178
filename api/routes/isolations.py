"""Devices cut off and taken back: credentials, live connections, and whatever they still say. Clauses 8.4d, 9.4."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from api.asking import Asking
from api.errors import problems
from api.isolation import isolate_knowingly
from api.locators import near_ward, of_device
from api.paging import Page, PagedByNumber
from api.permissions import may, may_list
from api.routes.devices import Named
from api.routes.router import api_router
from api.schemas.isolations import IsolationIn, IsolationOut
from api.services import Behind
from api.times import In
from domain.errors import Conflict, InvalidInput, NotFound, PatientAttached
from domain.permissions import Action
from runtime.sql import isolations

router = api_router(tags=["devices"])
DeviceIsolate = Annotated[Asking, may(Action.DEVICE_ISOLATE, at=of_device)]
DeviceExposure = Annotated[Asking, may(Action.EXPOSURE_READ, at=of_device)]
IsolationList = Annotated[Asking, may_list(Action.EXPOSURE_READ, at=near_ward)]


@router.post(
    "/devices/{hospital_id}/{device_id}/isolation", status_code=201,
    responses=problems(NotFound, InvalidInput, Conflict, PatientAttached),
)  # fmt: skip
async def isolate_device(who: DeviceIsolate, body: IsolationIn, device: Named, behind: Behind, zone: In) -> IsolationOut:
    """Cut a device off: its credentials are refused, its connections end, what still comes of it is kept among the rejects.

    While a patient is on it, or on what it carries, a person of the ward has to be named (`confirmed_by`); 409
    `patient-attached` says so, with the patients' keys. The ward gets a technical alarm.
    """
    row = await behind.tell(
        isolate_knowingly, behind.engine, behind.services.authoriser, behind.author(who), device,
        confirmed_by=body.confirmed_by, revoke=body.revoke_credentials,
    )  # fmt: skip
    await behind.doors_told()
    return IsolationOut.of(row, zone)


@router.post("/devices/{hospital_id}/{device_id}/isolation/release", responses=problems(NotFound, InvalidInput, Conflict))
async def release_device(who: DeviceIsolate, device: Named, behind: Behind, zone: In) -> IsolationOut:
    """Undo it: the device may connect again, and its alarm ends. What it said meanwhile may be resubmitted from the rejects."""
    row = await behind.tell(isolations.release, behind.engine, behind.author(who), device["handle"])
    await behind.doors_told()
    return IsolationOut.of(row, zone)


@router.get("/devices/{hospital_id}/{device_id}/isolations", responses=problems(NotFound))
async def list_of_device(
    who: DeviceExposure, device: Named, behind: Behind, paged: PagedByNumber, zone: In
) -> Page[IsolationOut]:
    """All isolations of a device, the newest first."""
    found = await behind.read(
        isolations.list_isolations,
        behind.engine,
        reach=who.reach,
        limit=paged.limit,
        after=paged.after,
        handle=device["handle"],
    )
    return paged.page([IsolationOut.of(row, zone) for row in found.rows], found.after)


@router.get("/isolations")
async def list_isolations(
    who: IsolationList,
    behind: Behind,
    paged: PagedByNumber,
    zone: In,
    hospital: Annotated[str | None, Query()] = None,
    ward: Annotated[str | None, Query()] = None,
    present: Annotated[bool, Query(description="Only those that are in force.")] = True,
) -> Page[IsolationOut]:
    """Devices that are cut off, the newest first; with `present=false` those that were, too."""
    found = await behind.read(
        isolations.list_isolations, behind.engine, reach=who.reach, limit=paged.limit, after=paged.after, hospital_id=hospital,
        ward_id=ward, in_force=present,
    )  # fmt: skip
    return paged.page([IsolationOut.of(row, zone) for row in found.rows], found.after)
