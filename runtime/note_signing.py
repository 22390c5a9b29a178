"""Signs texts as notes, by one key of each kind, and verifies such: Ed25519 for everybody, SM2 beside it. Clause 7.2c.

Versions of a key that are no longer signed with still verify.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from domain.cosignatures import cosigned_text, time_and_signature
from domain.errors import InvalidInput
from domain.signed_notes import COSIGNATURE, SM2, Note, PublicKey, Signature
from runtime import sm2
from runtime.keys import KeyGone, KeyProvider, make_missing, newest


@dataclass(frozen=True, slots=True)
class KeyVerifier:
    """`domain.signed_notes.Verifier` of a public key."""

    public: PublicKey

    @property
    def name(self) -> str:
        return self.public.name

    @property
    def key_id(self) -> bytes:
        return self.public.key_id

    def is_valid(self, text: bytes, signature: bytes) -> bool:
        if self.public.kind == SM2:
            return sm2.is_signed(self.public.key, text, signature)
        try:
            if self.public.kind == COSIGNATURE:
                at_s, signature = time_and_signature(signature)
                text = cosigned_text(text, at_s)
            Ed25519PublicKey.from_public_bytes(self.public.key).verify(signature, text)
        except (InvalidSignature, InvalidInput):
            return False
        return True


class NoteSigner:
    """`names`: keys of the provider, each with its kind of signature; in notes all are called `origin`. Raises KeyMissing."""

    def __init__(self, keys: KeyProvider, origin: str, names: Mapping[str, bytes]) -> None:
        self._keys = keys
        self.origin = origin
        self._names = names

    def make_keys(self) -> None:
        """Make keys that were never made: while nothing was signed. What has been signed knows its keys."""
        make_missing(self._keys, self._names)

    def public_keys(self) -> list[PublicKey]:
        """All that ever signed: of each kind the present one, then older ones, those that were destroyed too."""
        found: list[PublicKey] = []
        for name in self._names:
            found.append(self._public(name))
            for version in reversed(self._keys.history(name)[:-1]):
                with contextlib.suppress(KeyGone):  # destroyed when public keys were not kept
                    found.append(self._public(name, version.number))
        return found

    def sign(self, text: str) -> bytes:
        """The text as a note, signed by a key of each kind."""
        return Note(text, tuple(self._signature(name, text) for name in self._names)).to_bytes()

    def _signature(self, name: str, text: str) -> Signature:
        version = newest(self._keys, name)  # one for both: somebody may rotate in between
        key_id = self._public(name, version).key_id
        return Signature(self.origin, key_id, self._keys.sign(name, text.encode(), version=version))

    def _public(self, name: str, version: int | None = None) -> PublicKey:
        return PublicKey(self.origin, self._names[name], self._keys.public_key(name, version=version))


def verify_by_each(note: Note, keys: Iterable[PublicKey], kinds: Iterable[bytes]) -> None:
    """That a key of each kind signed. Raises IntegrityViolation."""
    keys = list(keys)
    for kind in kinds:
        note.verified_by(KeyVerifier(key) for key in keys if key.kind == kind)
