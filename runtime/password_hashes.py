"""Passwords as they are stored: PBKDF2 with SM3, a salt for each, and a pepper that is not in the database.

`$pbkdf2-sm3$v=1,i=600000,k=1$<salt>$<hash>`: iterations, the version of key `pepper`, salt and hash in base64. The hash
is the HMAC of what PBKDF2 derived, so that a copy of the database without the keys is not enough to try passwords.
Clauses 7.2a, 7.2c.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
import unicodedata
from dataclasses import dataclass
from typing import Final, Self

from domain.errors import IntegrityViolation
from runtime.keys import KeyProvider
from runtime.sm import SM3_BYTES, pbkdf2_sm3

MAX_PASSWORD_CHARS: Final = 128
_PEPPER: Final = "pepper"
_SALT_BYTES: Final = 16
_STORED: Final = re.compile(r"\$pbkdf2-sm3\$v=1,i=([1-9][0-9]{0,8}),k=([1-9][0-9]{0,8})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)")


@dataclass(frozen=True, slots=True)
class _Stored:
    iterations: int
    pepper: int
    salt: bytes
    hash: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises IntegrityViolation, which does not quote it."""
        found = _STORED.fullmatch(text)
        try:
            if found is not None:
                parts = [base64.b64decode(part, validate=True) for part in found.groups()[2:]]
                return cls(int(found[1]), int(found[2]), *parts)
        except binascii.Error:
            pass
        raise IntegrityViolation("a stored password is damaged: it is no $pbkdf2-sm3$ of version 1")

    def __str__(self) -> str:
        salt, hashed = (base64.b64encode(part).decode() for part in (self.salt, self.hash))
        return f"$pbkdf2-sm3$v=1,i={self.iterations},k={self.pepper}${salt}${hashed}"


class PasswordHashes:
    """Makes and checks stored passwords. Each call takes a tenth of a second or more of a processor, on purpose.

    Other threads go on meanwhile. All raise KeyMissing or KeyGone when the pepper that is needed is not there.
    """

    def __init__(self, keys: KeyProvider, *, iterations: int) -> None:
        self._keys = keys
        self._iterations = iterations

    def make(self, password: str) -> str:
        """What is stored of `password`."""
        pepper = self._newest_pepper()
        salt = os.urandom(_SALT_BYTES)
        return str(_Stored(self._iterations, pepper, salt, self._hash(password, salt, self._iterations, pepper)))

    def check(self, password: str, stored: str | None) -> bool:
        """Whether `password` is the stored one. Without a stored one it is not, which takes just as long to say.

        So does one that is longer than any stored one can be.
        """
        is_possible = stored is not None and len(password) <= MAX_PASSWORD_CHARS
        kept = _Stored.parse(stored) if stored is not None else self._nobodys()
        given = self._hash(password if is_possible else "", kept.salt, kept.iterations, kept.pepper)
        return hmac.compare_digest(given, kept.hash) and is_possible

    def is_outdated(self, stored: str) -> bool:
        """Whether it should be made anew when the password is at hand: with other iterations, or an older pepper."""
        kept = _Stored.parse(stored)
        return (kept.iterations, kept.pepper) != (self._iterations, self._newest_pepper())

    def _nobodys(self) -> _Stored:
        return _Stored(self._iterations, self._newest_pepper(), bytes(_SALT_BYTES), bytes(SM3_BYTES))

    def _newest_pepper(self) -> int:
        return max(self._keys.versions(_PEPPER), default=1)  # of none `mac` says that it is missing

    def _hash(self, password: str, salt: bytes, iterations: int, pepper: int) -> bytes:
        """Of the composed form: two keyboards may spell one character differently."""
        spelled = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
        return self._keys.mac(_PEPPER, pbkdf2_sm3(spelled, salt, iterations=iterations), version=pepper)
