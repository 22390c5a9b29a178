"""Who signs checkpoints of the log, and how they are verified: one line Ed25519, one line SM2. Clause 7.2c.

Both keys have the log's origin as their name. Versions of a key that are no longer signed with still verify.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from domain.cosignatures import cosigned_text, time_and_signature
from domain.errors import IntegrityViolation, InvalidInput
from domain.signed_notes import COSIGNATURE, ED25519, SM2, Checkpoint, Note, PublicKey, Signature
from runtime import sm2
from runtime.keys import KeyProvider, make_missing

LOG_KEYS: Final[Mapping[str, bytes]] = {"log-ed25519": ED25519, "log-sm2": SM2}


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
    """Signs texts with a key of each kind, and knows its keys. All raise KeyMissing when a key is away."""

    def __init__(self, keys: KeyProvider, origin: str, names: Mapping[str, bytes]) -> None:
        """`names`: of the provider's keys, and the kind of each. To the world both are called `origin`."""
        self._keys = keys
        self._names = names
        self.origin = origin

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

    def _public(self, name: str, version: int | None = None) -> PublicKey:
        return PublicKey(self.origin, self._names[name], self._keys.public_key(name, version=version))

    def sign_text(self, text: str) -> bytes:
        """A text that ends in a newline as a note, signed by all keys."""
        signatures = tuple(
            Signature(self.origin, self._public(name).key_id, self._keys.sign(name, text.encode())) for name in self._names
        )
        return Note(text, signatures).to_bytes()


class LogSigner(NoteSigner):
    """Signs checkpoints with the log's own keys."""

    def __init__(self, keys: KeyProvider, origin: str) -> None:
        super().__init__(keys, origin, LOG_KEYS)

    def sign(self, checkpoint: Checkpoint) -> bytes:
        """The checkpoint as a note."""
        return self.sign_text(checkpoint.text)

    def verify(self, note: bytes) -> Checkpoint:
        """The checkpoint that we signed, with a key of each kind. Raises IntegrityViolation, InvalidInput."""
        parsed = Note.parse(note)
        said = Checkpoint.parse(parsed.text)
        if said.origin != self.origin:
            raise IntegrityViolation(f"this is the log of {said.origin!r}: expected {self.origin!r} (audit.origin)")
        keys = self.public_keys()
        for kind in LOG_KEYS.values():
            parsed.verified_by(KeyVerifier(key) for key in keys if key.kind == kind)
        return said
