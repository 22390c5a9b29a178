"""Passwords as they are stored: made slow to try, with a salt for each, and a pepper that is not in the database.

`$pbkdf2-sm3$v=1,i=600000,k=1$<salt>$<hash>`: iterations, the version of key `pepper`, salt and hash in base64.
`$argon2id$v=1,m=65536,t=3,p=1,k=1$<salt>$<hash>`: memory in KiB, passes, lanes (RFC 9106). The hash is the HMAC of what was
derived, so that a copy of the database without the keys is not enough to try passwords. Clauses 7.2a, 7.2c.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
import unicodedata
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from domain.errors import IntegrityViolation
from runtime.keys import KeyProvider
from runtime.security_profile import PasswordScheme
from runtime.sm import SM3_BYTES, pbkdf2_sm3

MAX_PASSWORD_CHARS: Final = 128
ARGON2_MEMORY_KIB: Final = 65_536
ARGON2_PASSES: Final = 3
_PEPPER: Final = "pepper"
_SALT_BYTES: Final = 16
_STORED: Final = re.compile(
    r"\$(?:pbkdf2-sm3\$v=1,i=([1-9][0-9]{0,8})|argon2id\$v=1,m=([1-9][0-9]{0,6}),t=([1-9][0-9]?),p=1)"
    r",k=([1-9][0-9]{0,8})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)"
)


class _Scheme(Protocol):
    """A way to derive, with its cost. As text it stands in front of what is stored."""

    def derive(self, password: bytes, salt: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Pbkdf2:
    iterations: int

    def derive(self, password: bytes, salt: bytes) -> bytes:
        return pbkdf2_sm3(password, salt, iterations=self.iterations)

    def __str__(self) -> str:
        return f"$pbkdf2-sm3$v=1,i={self.iterations}"


@dataclass(frozen=True, slots=True)
class _Argon2id:
    memory_kib: int
    passes: int

    def derive(self, password: bytes, salt: bytes) -> bytes:
        made = Argon2id(salt=salt, length=SM3_BYTES, iterations=self.passes, lanes=1, memory_cost=self.memory_kib)
        return made.derive(password)

    def __str__(self) -> str:
        return f"$argon2id$v=1,m={self.memory_kib},t={self.passes},p=1"


@dataclass(frozen=True, slots=True)
class _Stored:
    scheme: _Scheme
    pepper: int
    salt: bytes
    hash: bytes

    @classmethod
    def parse(cls, text: str) -> _Stored:
        """Raises IntegrityViolation, which does not quote it."""
        found = _STORED.fullmatch(text)
        try:
            if found is not None:
                iterations, memory_kib, passes, pepper, *kept = found.groups()
                scheme = _Pbkdf2(int(iterations)) if iterations else _Argon2id(int(memory_kib), int(passes))
                return cls(scheme, int(pepper), *(base64.b64decode(part, validate=True) for part in kept))
        except binascii.Error:
            pass
        raise IntegrityViolation("a stored password is damaged: it is neither $pbkdf2-sm3$ nor $argon2id$ of version 1")

    def __str__(self) -> str:
        salt, hashed = (base64.b64encode(part).decode() for part in (self.salt, self.hash))
        return f"{self.scheme},k={self.pepper}${salt}${hashed}"


def pepper_of(stored: str) -> int:
    """The version of the pepper that a stored password was made with. Raises IntegrityViolation."""
    return _Stored.parse(stored).pepper


class PasswordHashes:
    """Makes and checks stored passwords. Each call takes a tenth of a second or more of a processor, on purpose.

    Other threads go on meanwhile. All raise KeyMissing or KeyGone when the pepper that is needed is not there.
    `iterations` are those of PBKDF2; Argon2id has a cost of its own.
    """

    def __init__(self, keys: KeyProvider, *, iterations: int, scheme: PasswordScheme = PasswordScheme.PBKDF2_SM3) -> None:
        self._keys = keys
        is_argon2 = scheme is PasswordScheme.ARGON2ID
        self._scheme: _Scheme = _Argon2id(ARGON2_MEMORY_KIB, ARGON2_PASSES) if is_argon2 else _Pbkdf2(iterations)

    def make(self, password: str) -> str:
        """What is stored of `password`."""
        pepper = self._newest_pepper()
        salt = os.urandom(_SALT_BYTES)
        return str(_Stored(self._scheme, pepper, salt, self._hash(password, salt, self._scheme, pepper)))

    def check(self, password: str, stored: str | None) -> bool:
        """Whether `password` is the stored one. Without a stored one it is not, which takes just as long to say.

        So does one that is longer than any stored one can be. Nobody's costs what new ones do: after a change of scheme or
        iterations those of users who have not signed in since take another time, which tells that they are there.
        """
        is_possible = stored is not None and len(password) <= MAX_PASSWORD_CHARS
        kept = _Stored.parse(stored) if stored is not None else self._nobodys()
        given = self._hash(password if is_possible else "", kept.salt, kept.scheme, kept.pepper)
        return hmac.compare_digest(given, kept.hash) and is_possible

    def is_outdated(self, stored: str) -> bool:
        """Whether it should be made anew when the password is at hand: with another scheme or cost, or an older pepper."""
        kept = _Stored.parse(stored)
        return (kept.scheme, kept.pepper) != (self._scheme, self._newest_pepper())

    def _nobodys(self) -> _Stored:
        return _Stored(self._scheme, self._newest_pepper(), bytes(_SALT_BYTES), bytes(SM3_BYTES))

    def _newest_pepper(self) -> int:
        return max(self._keys.versions(_PEPPER), default=1)  # of none `mac` says that it is missing

    def _hash(self, password: str, salt: bytes, scheme: _Scheme, pepper: int) -> bytes:
        """Of the composed form: two keyboards may spell one character differently."""
        spelled = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
        return self._keys.mac(_PEPPER, scheme.derive(spelled, salt), version=pepper)
