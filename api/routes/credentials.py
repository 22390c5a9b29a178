"""What devices prove with who they are: claim codes and certificates, one by one or for many; listed, and revoked. Clause 5.4a.

Devices themselves come to the HTTP door (`gateways.http_enrolment`).
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Query, Request, Response

from api.asking import Asking
from api.device_ids import read_device_ids, zip_of
from api.errors import problems
from api.locators import of_device, of_list
from api.permissions import may
from api.routes.devices import Named, WhoKnows
from api.routes.router import api_router
from api.schemas.credentials import IDS_BODY, ZIP_ANSWER, ClaimCodeOut, CredentialOut, EnrolledRow, EnrolmentReport
from api.services import Backend, Behind
from api.times import In
from domain.errors import Conflict, InvalidInput, NotFound, PatientAttached
from domain.permissions import Action
from runtime.sql import bulk_enrolment, credentials
from runtime.sql.engine import writing

router = api_router("/devices", tags=["devices"])
OfDevice = Annotated[Asking, may(Action.DEVICE_CREDENTIAL, at=of_device)]
OfMany = Annotated[Asking, may(Action.DEVICE_CREDENTIAL, at=of_list("devices"))]
Hospital = Annotated[str, Query(description="The hospital that all of them belong to.")]
_REVOKE: Final = problems(NotFound, InvalidInput, PatientAttached)
_NO_STORE: Final = "no-store"  # keys and codes are shown this once, and kept in no memory for a repeated request


@router.post("/claim-codes", openapi_extra=IDS_BODY, responses=problems(NotFound, InvalidInput))
async def give_claim_codes(
    who: OfMany, request: Request, response: Response, behind: Behind, zone: In, hospital: Hospital
) -> EnrolmentReport:
    """A claim code for each device of a list (CSV or JSON, at most 500), with a report on every row."""
    ids = await _ids(behind, request)
    author, rules = behind.author(who), behind.services.enrolment_rules
    rows = await behind.write(bulk_enrolment.give_claim_codes, behind.engine, author, hospital, ids, rules)
    response.headers["Cache-Control"] = _NO_STORE
    reports = [EnrolledRow(row=row.row, device_id=row.device_id, claim_code=row.given, error=row.error) for row in rows]
    refused = sum(row.error is not None for row in rows)
    return EnrolmentReport(
        rows=len(rows), accepted=len(rows) - refused, refused=refused, until=zone.text(author.now_us + rules.code_us),
        reports=reports,
    )  # fmt: skip


@router.post(
    "/certificates",
    openapi_extra=IDS_BODY,
    response_class=Response,
    responses=ZIP_ANSWER | problems(NotFound, InvalidInput, Conflict),
)
async def give_certificates(who: OfMany, request: Request, behind: Behind, hospital: Hospital) -> Response:
    """A key and a certificate for each device of a list (CSV or JSON, at most 500), in a ZIP.

    For devices that cannot make a key: who carries the ZIP can speak for all of them. The keys are kept nowhere here.
    """
    ids = await _ids(behind, request)

    def give() -> bytes:
        signer = behind.services.device_authority.signer()
        author, rules = behind.author(who), behind.services.enrolment_rules
        return zip_of(bulk_enrolment.give_certificates(behind.engine, author, hospital, ids, signer, rules))

    return Response(await behind.write(give), media_type="application/zip", headers={"Cache-Control": _NO_STORE})


@router.post("/{hospital_id}/{device_id}/claim-code", status_code=201, responses=problems(NotFound, Conflict))
async def make_claim_code(who: OfDevice, device: Named, behind: Behind, zone: In, response: Response) -> ClaimCodeOut:
    """A code with which the device gets its first certificate or token, once: type it in there.

    The device sends it to the HTTP door: `POST /v1/enrolment`.
    """

    def make() -> tuple[str, int]:
        with writing(behind.engine) as connection:
            rules = behind.services.enrolment_rules
            return credentials.make_claim_code(connection, behind.author(who), device["handle"], rules)

    code, until_us = await behind.write(make)
    response.headers["Cache-Control"] = _NO_STORE
    return ClaimCodeOut(device_id=device["device_id"], claim_code=code, until=zone.text(until_us))


@router.get("/{hospital_id}/{device_id}/credentials", responses=problems(NotFound))
async def list_credentials(_who: OfDevice, device: Named, behind: Behind, zone: In) -> list[CredentialOut]:
    """The device's token, certificates and claim codes, with who made them, when they end and when they were used last."""
    now_us = behind.services.clock.now_us()
    rows = await behind.read(credentials.credentials_of, behind.engine, device["handle"])
    return [CredentialOut.of(row, zone, now_us) for row in rows]


@router.delete("/{hospital_id}/{device_id}/credentials/{credential_id}", status_code=204, responses=_REVOKE)
async def revoke_credential(who: OfDevice, device: Named, credential_id: str, behind: Behind, known: WhoKnows) -> None:
    """End one credential for good. A connection that came with it is ended within seconds.

    While a patient is on the device, or on what it carries, somebody who knows has to be named (409 `patient-attached`); not
    for a claim code.
    """
    await behind.write(credentials.revoke, behind.engine, behind.author(who), device["handle"], credential_id, known)
    await behind.doors_told()


async def _ids(behind: Backend, request: Request) -> list[str]:
    body: Any = await request.body()
    return await behind.lanes.codec(read_device_ids, body, request.headers.get("content-type", ""))
