"""Maintenance windows: no alarms from a device or a ward that is being worked on. Clause 9.2c."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from api.asking import Asking, Unplaced
from api.errors import PreconditionRequired, problems
from api.locators import in_hospital, near_query, of_device, of_window
from api.permissions import may, may_list, may_where_body_says
from api.preconditions import ExpectedVersion
from api.routes.router import api_router
from api.schemas.patients import MaintenanceIn, MaintenanceOut
from api.services import Behind
from api.times import In, instant
from domain.errors import Conflict, InvalidInput, NotFound, StaleVersion
from domain.permissions import Action
from runtime.sql import devices, presets

router = api_router("/maintenance-windows", tags=["devices"])
WindowList = Annotated[Asking, may_list(Action.MAINTENANCE_READ, at=near_query)]
WindowOpen = Annotated[Unplaced, may_where_body_says(Action.MAINTENANCE_MANAGE)]
WindowEnd = Annotated[Asking, may(Action.MAINTENANCE_MANAGE, at=of_window)]


@router.get("")
async def list_windows(
    who: WindowList,
    behind: Behind,
    zone: In,
    hospital: Annotated[str, Query()],
    open_now: Annotated[bool, Query(description="Only those that are open now.")] = False,
) -> list[MaintenanceOut]:
    """Windows of a hospital, of the wards that you may see, by start."""
    at_us = behind.services.clock.now_us() if open_now else None
    rows = await behind.read(presets.list_maintenance, behind.engine, hospital, reach=who.reach, open_at_us=at_us)
    return [MaintenanceOut.of(row, zone) for row in rows]


@router.post("", status_code=201, responses=problems(NotFound, InvalidInput, Conflict))
async def start_maintenance(who: WindowOpen, body: MaintenanceIn, behind: Behind, zone: In) -> MaintenanceOut:
    """Open a window for a device or a ward."""
    if body.device_id is not None:
        place = await of_device(body.hospital_id, body.device_id, behind)
    else:
        place = await in_hospital(behind, "maintenance_windows", body.hospital_id, body.ward_id)
    author = behind.author(who.at(place))
    handle = None
    if body.device_id is not None:
        handle = (await behind.read(devices.find_device, behind.engine, body.hospital_id, body.device_id))["handle"]
    row = await behind.tell(
        presets.start_maintenance, behind.engine, author, body.hospital_id, handle=handle, ward_id=body.ward_id,
        from_us=instant(body.start) if body.start else author.now_us, until_us=instant(body.until),
    )  # fmt: skip
    return MaintenanceOut.of(row, zone)


@router.post("/{window_id}/end", responses=problems(NotFound, Conflict, PreconditionRequired, StaleVersion))
async def end_maintenance(who: WindowEnd, window_id: int, behind: Behind, version: ExpectedVersion, zone: In) -> MaintenanceOut:
    """End a window now."""
    row = await behind.tell(presets.end_maintenance, behind.engine, behind.author(who), window_id, version=version)
    return MaintenanceOut.of(row, zone)
