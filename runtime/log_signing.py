"""Who signs checkpoints of the log, and how they are verified: one line Ed25519, one line SM2. Clause 7.2c.

Both keys have the log's origin as their name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from domain.errors import IntegrityViolation
from domain.signed_notes import ED25519, SM2, Checkpoint, Note, PublicKey
from runtime.keys import KeyProvider
from runtime.note_signing import NoteSigner, verify_by_each

LOG_KEYS: Final[Mapping[str, bytes]] = {"log-ed25519": ED25519, "log-sm2": SM2}


class LogSigner:
    """Signs and knows the log's own keys. All raise KeyMissing when a key is away."""

    def __init__(self, keys: KeyProvider, origin: str) -> None:
        self._notes = NoteSigner(keys, origin, LOG_KEYS)
        self.origin = origin

    def make_keys(self) -> None:
        """Make keys that were never made: for a log that is empty. A log that has been signed knows its keys."""
        self._notes.make_keys()

    def public_keys(self) -> list[PublicKey]:
        """All that ever signed: of each kind the present one, then older ones, those that were destroyed too."""
        return self._notes.public_keys()

    def sign(self, checkpoint: Checkpoint) -> bytes:
        """The checkpoint as a note, signed by both keys."""
        return self._notes.sign(checkpoint.text)

    def verify(self, note: bytes) -> Checkpoint:
        """The checkpoint that we signed, with a key of each kind. Raises IntegrityViolation, InvalidInput."""
        parsed = Note.parse(note)
        said = Checkpoint.parse(parsed.text)
        if said.origin != self.origin:
            raise IntegrityViolation(f"this is the log of {said.origin!r}: expected {self.origin!r} (audit.origin)")
        verify_by_each(parsed, self.public_keys(), LOG_KEYS.values())
        return said
