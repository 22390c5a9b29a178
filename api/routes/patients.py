"""Patients: admitted, moved, discharged; limits preset for one; what is entered at the bedside. Clauses 6.3f, 8.1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import Header, Query, Response

from api.asking import Asking, Target, Unplaced
from api.errors import PreconditionRequired, problems
from api.given import given
from api.locators import in_hospital, makes_wards, moved_to, near_ward, of_patient
from api.masks import view_in
from api.observations import enter_observations
from api.paging import Page, PagedByName
from api.permissions import may, may_list, may_where_body_says
from api.preconditions import ExpectedVersion, set_etag
from api.readable import readable
from api.routes.router import api_router
from api.schemas.patients import (
    Discharge,
    MemberIn,
    MemberOut,
    ObservationsIn,
    PatientChange,
    PatientIn,
    PatientOut,
    PresetIn,
    PresetOut,
    ReceiptOut,
)
from api.services import Behind
from api.times import In, instant, maybe_instant
from domain.errors import Conflict, Forbidden, InvalidInput, NotFound, RejectedInput, StaleVersion, Unavailable
from domain.ids import ActorKind, Address
from domain.messages import DescribeActor
from domain.metrics import metric_of
from domain.permissions import Action
from runtime.sql import grants, locating, patients, presets

router = api_router("/patients", tags=["patients"])
PatientList = Annotated[Asking, may_list(Action.PATIENT_READ, at=near_ward)]
PatientAdmit = Annotated[Unplaced, may_where_body_says(Action.PATIENT_MANAGE)]
PatientRead = Annotated[Asking, may(Action.PATIENT_READ, at=of_patient)]
PatientReadings = Annotated[Asking, may(Action.READING_READ, at=of_patient)]
PatientManage = Annotated[Asking, may(Action.PATIENT_MANAGE, at=of_patient)]
ObservationEnter = Annotated[Asking, may(Action.OBSERVATION_ENTER, at=of_patient)]
PresetRead = Annotated[Asking, may(Action.PRESET_READ, at=of_patient)]
PresetSet = Annotated[Asking, may(Action.PRESET_SET, at=of_patient)]
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
    who: PatientList, behind: Behind, paged: PagedByName, zone: In, wanted: Annotated[PatientFilter, given(PatientFilter)]
) -> Page[PatientOut]:
    """The patients whom you may see, searched by name or number. A search finds nobody whose name is masked for you."""
    found = await behind.read(
        patients.list_patients, behind.engine, reach=who.reach, clear=who.clear, limit=paged.limit, after=paged.after,
        hospital_id=wanted.hospital, ward_id=wanted.ward, text=wanted.q, present_only=wanted.present,
    )  # fmt: skip
    who.shows_rows(found.rows)
    return paged.page([PatientOut.of(row, zone, view_in(row)) for row in found.rows], found.after)


@router.post("", status_code=201, responses=problems(NotFound, InvalidInput, Conflict))
async def admit_patient(who: PatientAdmit, body: PatientIn, behind: Behind, zone: In, response: Response) -> PatientOut:
    """Admit a patient; the answer carries the opaque key."""
    place = await in_hospital(behind, "patients", body.hospital_id, body.ward_id)
    former = await behind.read(locating.patient_of_ref, behind.engine, body.hospital_id, body.ref)
    if former is not None:  # who comes back is the same record, as sensitive as it was
        place = Target((replace(place.records[0], level=former.level, patient_key=former.patient_key),))
    permitted = who.at(place)
    author = behind.author(permitted)
    may_make = await makes_wards(behind, permitted, body.hospital_id)
    row = await behind.tell(
        patients.admit_patient, behind.engine, author, body.hospital_id, body.to_new(), makes_wards=may_make
    )  # fmt: skip
    if row["was_withheld"]:
        behind.levels_changed()
    permitted.shows([row["patient_key"]])
    set_etag(response, row["version"])
    return PatientOut.of(row, zone, permitted.view)


@router.get("/{patient_key}", responses=problems(NotFound))
async def show_patient(who: PatientRead, patient_key: str, behind: Behind, zone: In, response: Response) -> PatientOut:
    """One patient."""
    row = await behind.read(patients.get_patient, behind.engine, patient_key)
    set_etag(response, row["version"])
    return PatientOut.of(row, zone, who.view)


@router.get("/{patient_key}/state", responses=problems(NotFound, Unavailable))
async def show_state(_who: PatientReadings, patient_key: str, behind: Behind, zone: In) -> dict[str, Any]:
    """What the shard holds of a patient now: devices, early warning score and its inputs."""
    row = await behind.read(patients.get_patient, behind.engine, patient_key)
    address = Address(ActorKind.PATIENT, row["hospital_id"], patient_key)
    shown: dict[str, Any] = readable(await behind.post.ask(address, DescribeActor()), zone)
    return shown


@router.patch("/{patient_key}", responses=_UPDATE)
async def update_patient(
    who: PatientManage,
    patient_key: str,
    body: PatientChange,
    behind: Behind,
    version: ExpectedVersion,
    zone: In,
    response: Response,
) -> PatientOut:
    """Change a patient's facts, ward or bed (a bed move).

    The level is changed by who may read the record as it is now. A transfer is made by who may do so in both wards.
    """
    values = body.model_dump(exclude_unset=True)
    found = await of_patient(patient_key, behind)
    if "level" in values:  # reports need one factor: they must not open what takes two
        who.also(found, Action.PATIENT_READ)
    may_make = False
    if "ward_id" in values:
        who.also(await moved_to(behind, found, values["ward_id"]))
        may_make = await makes_wards(behind, who, str(found.records[0].place.hospital_id))
    row = await behind.tell(
        patients.update_patient, behind.engine, behind.author(who), patient_key, values, version=version, makes_wards=may_make
    )
    if "level" in values:
        behind.levels_changed()
    set_etag(response, row["version"])
    return PatientOut.of(row, zone, who.view)


@router.post("/{patient_key}/discharge", responses=_UPDATE)
async def discharge_patient(
    who: PatientManage,
    patient_key: str,
    body: Discharge,
    behind: Behind,
    version: ExpectedVersion,
    zone: In,
    response: Response,
) -> PatientOut:
    """End a stay; devices that are still on the patient come off at that time, and the care team is none any more."""
    author = behind.author(who)
    at_us = instant(body.at) if body.at else author.now_us
    row = await behind.tell(patients.discharge_patient, behind.engine, author, patient_key, at_us, version=version)
    for member in await behind.read(grants.list_team, behind.engine, patient_key):
        if member["until_us"] is None or member["until_us"] >= author.now_us:
            await behind.user_changed(member["principal_id"])
    set_etag(response, row["version"])
    return PatientOut.of(row, zone, who.view)


@router.post(
    "/{patient_key}/observations",
    status_code=201,
    responses=problems(NotFound, RejectedInput, Conflict, Unavailable),
)
async def enter(
    who: ObservationEnter,
    patient_key: str,
    body: ObservationsIn,
    behind: Behind,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> ReceiptOut:
    """Enter what was seen at the bedside (ACVPU, oxygen, a temperature …). Answered once it is kept."""
    return ReceiptOut.of(await enter_observations(behind, who, patient_key, body, idempotency_key))


@router.get("/{patient_key}/presets", responses=problems(NotFound))
async def list_presets(_who: PresetRead, patient_key: str, behind: Behind, zone: In) -> list[PresetOut]:
    """Limits preset for this patient, in place of the normal range by age."""
    await behind.read(patients.get_patient, behind.engine, patient_key)
    return [PresetOut.of(row, zone) for row in await behind.read(presets.list_presets, behind.engine, patient_key)]


@router.put("/{patient_key}/presets/{metric}", responses=problems(NotFound, InvalidInput))
async def set_preset(who: PresetSet, patient_key: str, metric: str, body: PresetIn, behind: Behind, zone: In) -> PresetOut:
    """Preset the limits of one metric for this patient."""
    code = metric_of(metric).code
    row = await behind.tell(presets.set_preset, behind.engine, behind.author(who), patient_key, code, body.limits())
    return PresetOut.of(row, zone)


@router.delete("/{patient_key}/presets/{metric}", status_code=204, responses=problems(NotFound))
async def remove_preset(who: PresetSet, patient_key: str, metric: str, behind: Behind) -> None:
    """Go back to the normal range by age."""
    await behind.tell(presets.remove_preset, behind.engine, behind.author(who), patient_key, metric)


@router.get("/{patient_key}/care-team", responses=problems(NotFound))
async def list_care_team(_who: PatientRead, patient_key: str, behind: Behind, zone: In) -> list[MemberOut]:
    """Who treats the patient, and who did."""
    rows = await behind.read(grants.list_team, behind.engine, patient_key)
    return [MemberOut.of(row, zone) for row in rows]


@router.post("/{patient_key}/care-team", status_code=201, responses=problems(NotFound, InvalidInput, Conflict))
async def join_care_team(who: PatientManage, patient_key: str, body: MemberIn, behind: Behind, zone: In) -> MemberOut:
    """Say that a user treats the patient from now on: what they were given for their care teams reaches the patient.

    Nobody says so of themselves, and no patient's own account treats anybody. It ends with the stay, if not before.
    """
    if body.user == who.caller.principal.name:
        raise Forbidden(f"{body.user} may not join a care team by themselves: another one has to add them")
    author = behind.author(who)
    row = await behind.write(grants.join_team, behind.engine, author, patient_key, body.user, maybe_instant(body.until))
    await behind.user_changed(row["principal_id"])
    return MemberOut.of(row, zone)


@router.delete("/{patient_key}/care-team/{name}", status_code=204, responses=problems(NotFound))
async def leave_care_team(who: PatientManage, patient_key: str, name: str, behind: Behind) -> None:
    """Say that a user treats the patient no more."""
    principal_id = await behind.write(grants.leave_team, behind.engine, behind.author(who), patient_key, name)
    await behind.user_changed(principal_id)
