"""Which device was on whom, when; corrected afterwards without deleting what was shown."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from api.asking import Asking, Unplaced
from api.device_names import split_device
from api.errors import problems
from api.locators import near_device, of_association, of_patient, worn_by
from api.masks import view_in
from api.permissions import may, may_list, may_where_body_says
from api.routes.router import api_router
from api.schemas.patients import AssociationCorrection, AssociationEnd, AssociationIn, AssociationOut, Corrected, TouchedOut
from api.services import Behind
from api.times import In, Rfc3339, instant, maybe_instant
from domain.errors import Conflict, InvalidInput, NotFound
from domain.permissions import Action
from runtime.sql import associations, devices

router = api_router("/associations", tags=["patients"])
SpanList = Annotated[Asking, may_list(Action.ASSOCIATION_READ, at=near_device)]
Associate = Annotated[Unplaced, may_where_body_says(Action.ASSOCIATION_MANAGE)]
SpanManage = Annotated[Asking, may(Action.ASSOCIATION_MANAGE, at=of_association)]


@router.get("", responses=problems(NotFound, InvalidInput))
async def list_associations(
    who: SpanList,
    behind: Behind,
    zone: In,
    device: Annotated[str | None, Query(description="`hospital/device`.", examples=["sz.h012/mon-7"])] = None,
    patient: Annotated[str | None, Query(description="Patient key.")] = None,
    known_at: Annotated[Rfc3339 | None, Query(description="As it was believed then.")] = None,
) -> list[AssociationOut]:
    """Spans of a device or a patient by start: as believed now, or at an instant in the past.

    Of a device those with patients whom you may see.
    """
    if (device is None) == (patient is None):
        raise InvalidInput("associations are listed for a device or for a patient: give one of the two")
    if patient is not None:
        who.also(await of_patient(patient, behind))
    worn = None if device is None else await behind.read(devices.find_device, behind.engine, *split_device(device))
    rows = await behind.read(
        associations.list_associations, behind.engine, reach=who.reach, clear=who.clear,
        handle=None if worn is None else worn["handle"], patient_key=patient, known_at_us=maybe_instant(known_at),
    )  # fmt: skip
    who.shows(row["patient_key"] for row in rows)
    if worn is not None and rows:
        who.shows_of([(worn["hospital_id"], worn["ward_id"])])
    return [AssociationOut.of(row, zone, view_in(row)) for row in rows]


@router.post("", status_code=201, responses=problems(NotFound, InvalidInput, Conflict))
async def associate(who: Associate, body: AssociationIn, behind: Behind, zone: In) -> AssociationOut:
    """Put a device on a patient. A device is on one patient at a time."""
    permitted = who.at(await worn_by(behind, body.hospital_id, body.device_id))
    permitted.also(await of_patient(body.patient_key, behind))
    author = behind.author(permitted)
    device = await behind.read(devices.find_device, behind.engine, body.hospital_id, body.device_id)
    start_us = instant(body.start) if body.start else author.now_us
    row = await behind.tell(
        associations.associate, behind.engine, author, device["handle"], body.patient_key, start_us, maybe_instant(body.end)
    )
    return AssociationOut.of(row, zone, permitted.view)


@router.post("/{association_id}/end", responses=problems(NotFound, InvalidInput, Conflict))
async def end_association(
    who: SpanManage, association_id: int, body: AssociationEnd, behind: Behind, zone: In
) -> AssociationOut:
    """Take a device off a patient."""
    author = behind.author(who)
    end_us = instant(body.end) if body.end else author.now_us
    row = await behind.tell(associations.end_association, behind.engine, author, association_id, end_us)
    return AssociationOut.of(row, zone, who.view)


@router.post("/{association_id}/correct", responses=problems(NotFound, InvalidInput, Conflict))
async def correct_association(
    who: SpanManage, association_id: int, body: AssociationCorrection, behind: Behind, zone: In
) -> Corrected:
    """Say what was really so. Answers with the alarms, scores and exports that rest on the old belief."""
    if body.patient_key is not None:
        who.also(await of_patient(body.patient_key, behind))
    row, touched = await behind.tell(
        associations.correct_association, behind.engine, behind.author(who), association_id, patient_key=body.patient_key,
        start_us=maybe_instant(body.start), end_us=maybe_instant(body.end), withdraw=body.withdraw,
    )  # fmt: skip
    return Corrected(association=AssociationOut.of(row, zone, who.view), touched=TouchedOut.of(touched, zone))
