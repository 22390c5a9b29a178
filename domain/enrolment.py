"""What doors ask of whoever holds the authority of devices, and what comes back. JSON on the wire."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from domain.errors import InvalidInput

MAX_REQUEST_BYTES: Final = 16_384  # of a certification request


class ClaimAsked(msgspec.Struct, frozen=True, tag="claim"):
    """A device that has a claim code and nothing else. `request`: PKCS #10; empty: it wants a token. `address`: its own."""

    code: str
    request: bytes
    address: str


class RenewalAsked(msgspec.Struct, frozen=True, tag="renewal"):
    """A device that the door knows, by what it has shown there."""

    handle: int
    shown: tuple[str, ...]
    request: bytes


class Enrolled(msgspec.Struct, frozen=True):
    """What a device was given: a certificate with its chain, PEM, or a token. `device`: `sz.h012/mon-7`."""

    device: str
    chain: str | None = None
    token: str | None = None


def fingerprint_of(der: bytes) -> str:
    """What a certificate is known by: `sha256:` and 64 digits."""
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def is_certificate(credential: str) -> bool:
    """Whether that is the fingerprint of a certificate; else it is the digest of a token."""
    return credential.startswith("sha256:")


EnrolmentAsked = ClaimAsked | RenewalAsked
_decoder: Final = msgspec.json.Decoder(EnrolmentAsked)


def decode_asked(data: bytes) -> EnrolmentAsked:
    """Raises InvalidInput for anything else."""
    try:
        asked: EnrolmentAsked = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"a question about enrolment cannot be read: {error}") from error
    return asked
