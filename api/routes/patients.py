"""Patients: admitted, moved, discharged; limits preset for one; what is entered at the bedside. Clauses 6.3f, 8.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response

from api.auth import Clinician, Viewer
from api.errors import PreconditionRequired, problems
from api.given import given
from api.observations import enter_observations
from api.paging import Page, Paged
from api.preconditions import ExpectedVersion, set_etag
from api.readable import readable
from api.schemas.patients import (
    Discharge,
    ObservationsIn,
    PatientChange,
    PatientIn,
    PatientOut,
    PresetIn,
    PresetOut,
    ReceiptOut,
)
from api.services import Behind
from api.times import In, instant
from domain.errors import Conflict, InvalidInput, NotFound, RejectedInput, StaleVersion, Unavailable
from domain.ids import ActorKind, Address
from domain.messages import DescribeActor
from domain.metrics import metric_of
from runtime.sql import patients, presets

router = APIRouter(prefix="/patients", tags=["patients"])
_UPDATE = problems(NotFound, Conflict, PreconditionRequired, StaleVersion)


@dataclass(frozen=True)
class PatientFilter:
    """Which patients; whatever is left out does not matter."""

    hospital: Annotated[str | None, Query()] = None
    ward: Annotated[str | None, Query()] = None
    q: Annotated[str | None, Query(description="Part of the name or of the hospital's number.", max_length=64)] = None
    present: Annotated[bool, Query(description="Only those who are not discharged.")] = False


@router.get("")
async def list_patients(
    _who: Viewer, behind: Behind, paged: Paged, zone: In, wanted: Annotated[PatientFilter, given(PatientFilter)]
) -> Page[PatientOut]:
    """Patients of the region, searched by name or number."""
    found = await behind.read(
        patients.list_patients, behind.engine, limit=paged.limit, after=paged.after, hospital_id=wanted.hospital,
        ward_id=wanted.ward, text=wanted.q, present_only=wanted.present,
    )  # fmt: skip
    return paged.page([PatientOut.of(row, zone) for row in found.rows], found.after)


@router.post("", status_code=201, responses=problems(NotFound, InvalidInput, Conflict))
async def admit_patient(body: PatientIn, who: Clinician, behind: Behind, zone: In, response: Response) -> PatientOut:
    """Admit a patient; the answer carries the opaque key."""
    row = await behind.tell(patients.admit_patient, behind.engine, behind.author(who), body.hospital_id, body.to_new())
    set_etag(response, row["version"])
    return PatientOut.of(row, zone)


@router.get("/{patient_key}", responses=problems(NotFound))
async def show_patient(patient_key: str, _who: Viewer, behind: Behind, zone: In, response: Response) -> PatientOut:
    """One patient."""
    row = await behind.read(patients.get_patient, behind.engine, patient_key)
    set_etag(response, row["version"])
    return PatientOut.of(row, zone)


@router.get("/{patient_key}/state", responses=problems(NotFound, Unavailable))
async def show_state(patient_key: str, _who: Viewer, behind: Behind, zone: In) -> dict[str, Any]:
    """What the shard holds of a patient now: devices, early warning score and its inputs."""
    row = await behind.read(patients.get_patient, behind.engine, patient_key)
    address = Address(ActorKind.PATIENT, row["hospital_id"], patient_key)
    shown: dict[str, Any] = readable(await behind.post.ask(address, DescribeActor()), zone)
    return shown


@router.patch("/{patient_key}", responses=_UPDATE)
async def update_patient(
    patient_key: str,
    body: PatientChange,
    who: Clinician,
    behind: Behind,
    version: ExpectedVersion,
    zone: In,
    response: Response,
) -> PatientOut:
    """Change a patient's facts, ward or bed (a bed move)."""
    values = body.model_dump(exclude_unset=True)
    row = await behind.tell(patients.update_patient, behind.engine, behind.author(who), patient_key, values, version=version)
    set_etag(response, row["version"])
    return PatientOut.of(row, zone)


@router.post("/{patient_key}/discharge", responses=_UPDATE)
async def discharge_patient(
    patient_key: str, body: Discharge, who: Clinician, behind: Behind, version: ExpectedVersion, zone: In, response: Response
) -> PatientOut:
    """End a stay; devices that are still on the patient come off at that time."""
    author = behind.author(who)
    at_us = instant(body.at) if body.at else author.now_us
    row = await behind.tell(patients.discharge_patient, behind.engine, author, patient_key, at_us, version=version)
    set_etag(response, row["version"])
    return PatientOut.of(row, zone)


@router.post(
    "/{patient_key}/observations",
    status_code=201,
    responses=problems(NotFound, RejectedInput, Conflict, Unavailable),
)
async def enter(
    patient_key: str,
    body: ObservationsIn,
    who: Clinician,
    behind: Behind,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> ReceiptOut:
    """Enter what was seen at the bedside (ACVPU, oxygen, a temperature …). Answered once it is kept."""
    return ReceiptOut.of(await enter_observations(behind, who, patient_key, body, idempotency_key))


@router.get("/{patient_key}/presets", responses=problems(NotFound))
async def list_presets(patient_key: str, _who: Viewer, behind: Behind, zone: In) -> list[PresetOut]:
    """Limits preset for this patient, in place of the normal range by age."""
    await behind.read(patients.get_patient, behind.engine, patient_key)
    return [PresetOut.of(row, zone) for row in await behind.read(presets.list_presets, behind.engine, patient_key)]


@router.put("/{patient_key}/presets/{metric}", responses=problems(NotFound, InvalidInput))
async def set_preset(patient_key: str, metric: str, body: PresetIn, who: Clinician, behind: Behind, zone: In) -> PresetOut:
    """Preset the limits of one metric for this patient."""
    code = metric_of(metric).code
    row = await behind.tell(presets.set_preset, behind.engine, behind.author(who), patient_key, code, body.limits())
    return PresetOut.of(row, zone)


@router.delete("/{patient_key}/presets/{metric}", status_code=204, responses=problems(NotFound))
async def remove_preset(patient_key: str, metric: str, who: Clinician, behind: Behind) -> None:
    """Go back to the normal range by age."""
    await behind.tell(presets.remove_preset, behind.engine, behind.author(who), patient_key, metric)
