"""Tokens that machines carry, and what is stored of one: never itself."""

from __future__ import annotations

import base64
import hashlib
import secrets
from enum import StrEnum
from typing import Final

from runtime.sm import sm3

_SM3: Final = "sm3:"


class Prefix(StrEnum):
    """In front of tokens that do not last, so that nobody has to look everywhere for their holder."""

    SESSION = "vgs_"
    REFRESH = "vgr_"
    SERVICE = "vgt_"  # got by a service for its own token, which has no prefix


def new_token(prefix: Prefix | None = None) -> tuple[str, str]:
    """A token and what is stored of it. Tokens carry 256 random bits, so a plain digest is enough."""
    token = (prefix or "") + secrets.token_urlsafe(32)
    return token, token_digest(token)


def token_digest(token: str) -> str:
    """`sm3:` and the digest, base64url."""
    return _SM3 + base64.urlsafe_b64encode(sm3(token.encode())).decode().rstrip("=")


def digests_of(token: str) -> tuple[str, str]:
    """All that may be stored of `token`: its digest, or of one made before SM3 was used 64 digits, of SHA-256.

    Those stay good until they are rotated: nobody can make the new digest without the token.
    """
    return token_digest(token), hashlib.sha256(token.encode()).hexdigest()
