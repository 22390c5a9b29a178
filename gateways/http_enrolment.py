"""Where a device gets its first credential, and its next certificate. Part of the HTTP door. Clauses 5.4a, 8.2c, 9.4.

    POST /v1/enrolment     Authorization: Claim <claim code>     the one thing that is open to strangers
    POST /v1/certificate   by its certificate, or Authorization: Bearer <token>

The body is a certification request (PKCS #10, PEM or DER); its names are not looked at. The answer is the certificate with
its chain (`application/pem-certificate-chain`, RFC 8555 9.1). A claim without a body gets a token instead, as JSON.
Asked again with the same key, a claim code gives the same certificate for as long as it lives, and `/v1/certificate` gives
the newest one while that is not due; a token that was lost on the way needs another claim code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from domain.enrolment import MAX_REQUEST_BYTES, Enrolled
from domain.errors import InvalidInput, Unauthenticated, VitalgridError
from domain.ports import Enrolment, Identities, Sender
from gateways.bodies import Bodies
from gateways.client_certificates import address_of, sender_of
from gateways.counters import DoorCounters
from gateways.problems import problem_of

logger = logging.getLogger(__name__)

_PEM_CHAIN: Final = "application/pem-certificate-chain"
_NO_STORE: Final = {"Cache-Control": "no-store"}


def enrolment_routes(
    identities: Identities, enrolment: Enrolment, counters: DoorCounters, take: Callable[[Sender, str, int], None],
    bodies: Bodies,
) -> list[Route]:  # fmt: skip
    """`take`: counts what came of a sender from an address, and raises TooManyReadings when that was too much."""
    own = _Renewals(identities, enrolment, counters, take, bodies)
    return [
        Route("/v1/enrolment", partial(_claim, enrolment, counters), methods=["POST"]),
        Route("/v1/certificate", own.renew, methods=["POST"]),
    ]


async def _claim(enrolment: Enrolment, counters: DoorCounters, request: Request) -> Response:
    try:
        scheme, _, code = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "claim" or not code.strip():
            raise Unauthenticated("the request carries no claim code: expected the header 'Authorization: Claim <claim code>'")
        body = await _body(request)
        return _answered(await enrolment.claim(code.strip(), body, address_of(request)))
    except ClientDisconnect:
        return Response(status_code=400)
    except VitalgridError as error:
        return _refused(error, counters)


@dataclass(frozen=True, slots=True)
class _Renewals:
    identities: Identities
    enrolment: Enrolment
    counters: DoorCounters
    take: Callable[[Sender, str, int], None]
    bodies: Bodies

    async def renew(self, request: Request) -> Response:
        try:
            sender = await sender_of(self.identities, request)
            self.take(sender, address_of(request), 1)
            with self.bodies.one_of(sender):
                body = await _body(request)
            if not body:
                raise InvalidInput("the request has no body: expected a certification request, as `openssl req -new` makes it")
            return _answered(await self.enrolment.renew(sender, body))
        except ClientDisconnect:
            return Response(status_code=400)
        except VitalgridError as error:
            return _refused(error, self.counters)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_REQUEST_BYTES:
            raise InvalidInput(f"the body is larger than the {MAX_REQUEST_BYTES} bytes that are taken")
    return bytes(body)


def _answered(given: Enrolled) -> Response:
    logger.info(
        "a device was given a credential", extra={"device": given.device, "kind": "token" if given.token else "certificate"}
    )
    if given.chain is not None:
        return Response(given.chain, media_type=_PEM_CHAIN, headers=_NO_STORE)
    answer = msgspec.json.encode({"device": given.device, "token": given.token})
    return Response(answer, media_type="application/json", headers=_NO_STORE)


def _refused(error: VitalgridError, counters: DoorCounters) -> Response:
    if isinstance(error, Unauthenticated):
        counters.connections_refused[error.code] += 1
    logger.info("enrolment was refused", extra={"why": error.code})
    return problem_of(error)
