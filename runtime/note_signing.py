"""Signs texts as notes, by one key of each kind, and verifies such: Ed25519 for everybody, SM2 beside it. Clause 7.2c.

Versions of a key that are no longer signed with still verify.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from domain.cosignatures import cosigned_text, time_and_signature
from domain.errors import InvalidInput
from domain.signed_notes import COSIGNATURE, SM2, Note, PublicKey, Signature
from runtime import sm2
from runtime.keys import KeyProvider, make_missing


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
        """All that ever signed: of each kind the present one, then older ones."""
        found = []
        for name in self._names:
            present = self._public(name)
            older = [self._public(name, version) for version in reversed(self._keys.versions(name))]
            found += [present, *(key for key in older if key != present)]
        return found

    def sign(self, text: str) -> bytes:
        """The text as a note, signed by a key of each kind."""
        signatures = tuple(
            Signature(self.origin, self._public(name).key_id, self._keys.sign(name, text.encode())) for name in self._names
        )
        return Note(text, signatures).to_bytes()

    def _public(self, name: str, version: int | None = None) -> PublicKey:
        return PublicKey(self.origin, self._names[name], self._keys.public_key(name, version=version))


def verify_by_each(note: Note, keys: Iterable[PublicKey], kinds: Iterable[bytes]) -> None:
    """That a key of each kind signed. Raises IntegrityViolation."""
    keys = list(keys)
    for kind in kinds:
        note.verified_by(KeyVerifier(key) for key in keys if key.kind == kind)
