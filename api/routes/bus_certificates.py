"""Certificates with which a hospital's program comes to the bus, where it may hear alarms. Clauses 5.4a, 9.4.

A certificate belongs to a token. It lets its holder into the hospital's account and no further; what is said there is for
the token's role to say (`api.live.hospital_streams`).
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Response

from api.asking import Asking
from api.errors import problems
from api.locators import of_token
from api.permissions import may
from api.routes.router import api_router
from api.schemas.bus_certificates import BusCertificateIn, BusCertificateOut, RevokedSoon
from api.services import Backend, Behind
from api.times import In
from domain import subjects
from domain.errors import Conflict, InvalidInput, NotFound, Unavailable, VitalgridError
from domain.permissions import Action
from runtime.device_authority import read_request
from runtime.sql import bus_certificates

router = api_router("/tokens/{name}/bus-certificates", tags=["access"])
Manage = Annotated[Asking, may(Action.TOKEN_MANAGE, at=of_token)]
Read = Annotated[Asking, may(Action.TOKEN_READ, at=of_token)]
_LOOK_S: Final = 10.0


@router.post("", status_code=201, responses=problems(NotFound, Conflict, InvalidInput, Unavailable))
async def make_certificate(who: Manage, name: str, body: BusCertificateIn, behind: Behind, zone: In) -> BusCertificateOut:
    """A certificate for the key of a request: one, however often it is asked for. Its holder needs the token as well."""
    pem = body.request.encode()
    asked = await behind.lanes.codec(read_request, pem)
    try:
        await _looked(behind)  # first: nothing is asked for where nobody signs
    except Unavailable as error:
        raise Unavailable(f"no certificates for the bus are made now, and in profile dev never: {error}") from None
    author = behind.author(who)
    number = await behind.write(bus_certificates.ask_certificate, behind.engine, author, name, body.request, asked.key_digest)
    await _looked(behind)
    rows = await behind.read(bus_certificates.certificates_of, behind.engine, name)
    made = next(row for row in rows if row["id"] == number)
    if made["certificate"] is None:
        raise Unavailable(f"certificate {number} cannot be signed now, as the platform's log says: ask again for the same key")
    return BusCertificateOut.of(made, zone, author.now_us)


@router.get("", responses=problems(NotFound))
async def list_certificates(_who: Read, name: str, behind: Behind, zone: In) -> list[BusCertificateOut]:
    """All that the token ever had, the newest first."""
    rows = await behind.read(bus_certificates.certificates_of, behind.engine, name)
    return [BusCertificateOut.of(row, zone, behind.services.clock.now_us()) for row in rows]


@router.delete("/{certificate_id}", status_code=204, responses={202: {"model": RevokedSoon}, **problems(NotFound)})
async def revoke_certificate(who: Manage, name: str, certificate_id: int, behind: Behind) -> Response:
    """End a certificate for good. A connection that came with it is ended within seconds; 202 when the bus did not say so."""
    await behind.write(bus_certificates.revoke_certificate, behind.engine, behind.author(who), name, certificate_id)
    try:
        await _looked(behind)
    except VitalgridError as error:  # it is tried again by itself every two seconds
        said = RevokedSoon(detail=f"it is revoked, but the bus may let it in until it looks again: {error}")
        return Response(said.model_dump_json(), 202, media_type="application/json")
    return Response(status_code=204)


async def _looked(behind: Backend) -> None:
    await behind.services.bus.ask(subjects.BUS_ACCESS, b"", _LOOK_S)
