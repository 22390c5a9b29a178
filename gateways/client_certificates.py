"""What somebody at a door shows of itself beside its messages: the certificate of the TLS handshake, and its token."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from starlette.requests import Request

from domain.enrolment import fingerprint_of
from domain.errors import Unauthenticated
from domain.ports import Identities, Sender, Shown


def fingerprint_shown(transport: asyncio.BaseTransport) -> str | None:
    """Of the certificate whose key a peer has; who made it was checked when hands were shaken."""
    peer = transport.get_extra_info("ssl_object")
    der = None if peer is None else peer.getpeercert(binary_form=True)
    return fingerprint_of(der) if der else None


def certificate_in(extensions: dict[str, Any]) -> str | None:
    """The same, as the TLS extension of ASGI has it."""
    chain = extensions.get("tls", {}).get("client_cert_chain") or ()
    return fingerprint_of(ssl.PEM_cert_to_DER_cert(chain[0])) if chain else None


def address_of(request: Request) -> str:
    """Where a request came from; empty where there is none."""
    return request.client.host if request.client is not None else ""


async def sender_of(identities: Identities, request: Request, token: str | None = None) -> Sender:
    """Who sends a request: by its certificate, by `token` or the bearer token of its header, or by both."""
    certificate = certificate_in(request.scope.get("extensions") or {})
    if token is None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        token = given.strip() if scheme.lower() == "bearer" else ""
    shown = Shown(certificate, (token,) if token else ())
    if shown.is_nothing:
        raise Unauthenticated(
            "the request carries no token, and no certificate came with it: expected 'Authorization: Bearer <token>'"
        )
    return await identities.sender_of(shown)
