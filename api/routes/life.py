"""How long data lives: rules, legal holds, and the erasure of a person with a certificate. Clauses 9.3a, 9.3h."""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated

from api.asking import Asking, Target, Unplaced
from api.errors import problems
from api.locators import in_hospital, in_region, of_hold, of_patient_to_erase
from api.paging import Page, PagedByNumber
from api.permissions import may, may_list, may_where_body_says
from api.routes.log import entry_proof_of
from api.routes.router import api_router
from api.schemas.life import CertificateOut, ErasureOut, HoldIn, HoldOut, RuleOut
from api.schemas.patients import PatientOut
from api.services import Backend, Behind
from api.times import In, maybe_instant
from domain.erasures import Held
from domain.errors import Conflict, InvalidInput, NotFound, Unavailable
from domain.permissions import Action
from runtime.erasure_certificates import digest_of
from runtime.log_events import certified_by
from runtime.retention import overview
from runtime.sql import erasures, holds, patients

router = api_router(tags=["life of data"])
RetentionRead = Annotated[Asking, may(Action.RISK_READ, at=in_region("operation"))]
HoldList = Annotated[Asking, may_list(Action.PATIENT_ERASE)]
HoldAdd = Annotated[Unplaced, may_where_body_says(Action.PATIENT_ERASE)]
HoldLift = Annotated[Asking, may(Action.PATIENT_ERASE, at=of_hold)]
PatientErase = Annotated[Asking, may(Action.PATIENT_ERASE, at=of_patient_to_erase)]


@router.get("/retention")
async def list_retention(_who: RetentionRead, behind: Behind, zone: In) -> list[RuleOut]:
    """Each kind of record: how long it is kept and why, what there is of it, and when the next one goes."""
    services = behind.services
    kept = await behind.read(overview, services.engine, services.lake, services.periods)
    return [RuleOut.of(one, zone) for one in kept]


@router.get("/holds")
async def list_holds(who: HoldList, behind: Behind, paged: PagedByNumber, zone: In) -> Page[HoldOut]:
    """Legal holds, lifted ones too, the newest first."""
    found = await behind.read(holds.list_holds, behind.engine, reach=who.reach, limit=paged.limit, after=paged.after)
    who.shows(row["target"] for row in found.rows if row["kind"] == Held.PATIENT)
    return paged.page([HoldOut.of(row, zone) for row in found.rows], found.after)


@router.post("/holds", status_code=201, responses=problems(NotFound, InvalidInput, Conflict))
async def add_hold(who: HoldAdd, body: HoldIn, behind: Behind, zone: In) -> HoldOut:
    """Hold a patient, a device or a hospital: nothing of it is deleted or erased. Say why, in X-Reason."""
    permitted = who.at(await _to_hold(behind, body))
    if body.kind is Held.PATIENT:
        permitted.shows([body.target])
    author, until_us = behind.author(permitted), maybe_instant(body.until)
    return HoldOut.of(await behind.write(holds.add_hold, behind.engine, author, body.kind, body.target, until_us), zone)


@router.delete("/holds/{hold_id}", responses=problems(NotFound))
async def lift_hold(who: HoldLift, hold_id: int, behind: Behind, zone: In) -> HoldOut:
    """Lift a hold: rules and erasures go on."""
    return HoldOut.of(await behind.write(holds.lift_hold, behind.engine, behind.author(who), hold_id), zone)


@router.post("/patients/{patient_key}/erasure", status_code=202, responses=problems(NotFound, InvalidInput, Conflict))
async def request_erasure(who: PatientErase, patient_key: str, behind: Behind, zone: In) -> ErasureOut:
    """Ask for a person's erasure; say why, in X-Reason. From now on nobody is served their records.

    While the law wants them kept or a hold stands it is refused, and the answer says until when; the records stay withheld.
    Otherwise the job begins when the time to take the request back is over. Of a patient in the hospital: 409, care goes on.
    """
    periods = behind.services.periods
    row = await behind.write(
        erasures.request_erasure, behind.engine, behind.author(who), patient_key,
        retention_us=periods.inpatient_us, grace_us=periods.grace_us,
    )  # fmt: skip
    behind.levels_changed()
    return ErasureOut.of(row, zone)


@router.get("/patients/{patient_key}/erasure", responses=problems(NotFound))
async def show_erasure(_who: PatientErase, patient_key: str, behind: Behind, zone: In) -> ErasureOut:
    """What became of the newest request."""
    row = await behind.read(erasures.get_erasure, behind.engine, patient_key, behind.services.clock.now_us())
    return ErasureOut.of(row, zone)


@router.delete("/patients/{patient_key}/erasure", responses=problems(NotFound, Conflict))
async def withdraw_erasure(who: PatientErase, patient_key: str, behind: Behind, zone: In) -> ErasureOut:
    """Take a request back before its job begins: the records are served as before."""
    row = await behind.write(erasures.withdraw_erasure, behind.engine, behind.author(who), patient_key)
    behind.levels_changed()
    return ErasureOut.of(row, zone)


@router.get("/patients/{patient_key}/erasure/record", responses=problems(NotFound))
async def show_withheld(who: PatientErase, patient_key: str, behind: Behind, zone: In) -> PatientOut:
    """What is kept of the patient, for whoever answers for it; by name with X-Unmask."""
    row = await behind.read(patients.get_patient, behind.engine, patient_key)
    return PatientOut.of(row, zone, who.view)


@router.get("/patients/{patient_key}/erasure/certificate", responses=problems(NotFound, Unavailable))
async def show_certificate(_who: PatientErase, patient_key: str, behind: Behind) -> CertificateOut:
    """The certificate of an erasure that is done, and the proof that the access log has it: some seconds after the end."""
    row = await behind.read(erasures.get_erasure, behind.engine, patient_key, behind.services.clock.now_us())
    if row["certificate"] is None:
        raise NotFound(f"erasure {row['id']} of patient {patient_key!r} is {row['state']}: nothing is certified")
    digest = digest_of(row["certificate"])
    event = await behind.lanes.codec(certified_by, behind.services.log.folder, patient_key, digest)
    if event is None or event.event is None or event.salt is None:
        raise Unavailable("the access log does not have the certificate yet: ask again in some seconds")
    proof = await behind.lanes.codec(entry_proof_of, behind.services.log, event.at)
    event_b64, salt, entry = (b64encode(part).decode() for part in (event.event, event.salt, event.entry))
    return CertificateOut(
        certificate=row["certificate"], event=event_b64, salt=salt, entry=entry, proof=proof.decode(),
        vkeys=list(behind.services.certificate_vkeys()),
    )  # fmt: skip


async def _to_hold(behind: Backend, body: HoldIn) -> Target:
    """Where what is to be held lies. Raises NotFound for a patient who does not exist."""
    if body.kind is Held.PATIENT:
        return await of_patient_to_erase(body.target, behind)
    return await in_hospital(behind, "legal_holds", body.target.partition("/")[0])
