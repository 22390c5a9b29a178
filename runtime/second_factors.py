"""One-time codes (TOTP, RFC 6238) and recovery codes: how seeds are made and kept, and what a code shows.

A seed is sealed under the key `totp` and bound to its user, so that a copy of the database makes no codes, and a row that
was copied to another user opens nothing. That a code is taken once is the database's doing (`runtime.sql.second_factors`).
Clauses 5.4a, 7.2a, 7.2c.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
import unicodedata
from dataclasses import dataclass
from typing import Final

import pyotp

from runtime.keys import KeyProvider
from runtime.tokens import token_digest

STEP_US: Final = 30_000_000
RECOVERY_CODES: Final = 10
_KEY: Final = "totp"
_SEED_BYTES: Final = 20  # as RFC 4226 recommends
_RECOVERY_BYTES: Final = 10
_GROUP_CHARS: Final = 4
_BETWEEN: Final = re.compile(r"[\s-]+")
_CODE: Final = re.compile(r"[0-9]{6}")
_RECOVERY_CODE: Final = re.compile(r"[A-Za-z2-7]{16}")


@dataclass(frozen=True, slots=True)
class Shown:
    """What a code shows: that it is the one of a time step, or that it may be a recovery code. Neither: it shows nothing."""

    step: int | None = None
    recovery_digest: str | None = None


class SecondFactors:
    """Makes seeds and checks codes. All raise KeyMissing or KeyGone when the key that is needed is not there."""

    def __init__(self, keys: KeyProvider) -> None:
        self._keys = keys

    def make(self, user_id: str) -> tuple[str, bytes]:
        """A new secret, in base32 as authenticator apps take it, and what is stored of it."""
        seed = os.urandom(_SEED_BYTES)
        return _base32(seed), self._keys.wrap(_KEY, seed, user_id.encode())

    def sealed_under(self, sealed: bytes) -> int:
        """Under which version of the key a stored seed is."""
        return self._keys.version_of(sealed)

    def sealed_anew(self, user_id: str, sealed: bytes) -> bytes:
        """A stored seed, under the newest version of the key. Raises IntegrityViolation when it was not made for this user."""
        return self._keys.wrap(_KEY, self._keys.unwrap(_KEY, sealed, user_id.encode()), user_id.encode())

    def shown(self, user_id: str, sealed: bytes, code: str, now_us: int) -> Shown:
        """What `code` shows of this user. Raises IntegrityViolation when the seed was not made for them."""
        typed = _BETWEEN.sub("", unicodedata.normalize("NFKC", code))
        if _RECOVERY_CODE.fullmatch(typed):
            return Shown(recovery_digest=recovery_digest(user_id, typed))
        if not _CODE.fullmatch(typed):
            return Shown()
        totp = pyotp.TOTP(_base32(self._keys.unwrap(_KEY, sealed, user_id.encode())))
        present = now_us // STEP_US
        # all three are looked at whichever it is; of two that are alike (one in a million) the later one counts
        steps = [
            step for step in range(max(present - 1, 0), present + 2) if hmac.compare_digest(totp.generate_otp(step), typed)
        ]
        return Shown(step=max(steps, default=None))


def provisioning_uri(secret: str, user_name: str, issuer: str) -> str:
    """What an authenticator app reads from the QR code."""
    return pyotp.TOTP(secret).provisioning_uri(name=user_name, issuer_name=issuer)


def new_recovery_codes() -> list[str]:
    """Codes of 80 random bits, in groups that can be copied by hand. They can be shown this once only."""
    made = (_base32(os.urandom(_RECOVERY_BYTES)) for _ in range(RECOVERY_CODES))
    return ["-".join(code[at : at + _GROUP_CHARS] for at in range(0, len(code), _GROUP_CHARS)) for code in made]


def recovery_digest(user_id: str, code: str) -> str:
    """What is stored of a user's recovery code. 80 bits are too many to try, so that a plain digest is enough."""
    return token_digest(f"{user_id} {_BETWEEN.sub('', code).upper()}")


def _base32(content: bytes) -> str:
    return base64.b32encode(content).decode()
