"""Keys that never leave their provider: software today (`runtime.soft_keys`), a cryptographic module behind the same calls.

A key has a name, a kind and versions. New content is made under the newest version; older ones stay, to check and open
what was made under them, until they are destroyed. A version's number is never used again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from domain.errors import Unavailable, VitalgridError


class KeyKind(StrEnum):
    MAC = "hmac-sm3"
    WRAP = "sm4-gcm"
    ED25519 = "ed25519"
    SM2 = "sm2"


KEYS: Final[Mapping[str, KeyKind]] = {
    "pepper": KeyKind.MAC,  # with which passwords are hashed: the business database alone is not enough to guess them
    "totp": KeyKind.WRAP,  # seeds of one-time codes
    "fields": KeyKind.WRAP,  # data keys, which seal texts about people in the business database
    "blind": KeyKind.MAC,  # what such texts are found by, where they are looked for as a whole
    "lake": KeyKind.WRAP,  # keys of sealed files: the lake's and snapshots'
    "streams": KeyKind.MAC,  # from which the key of nats-server's store is made
    "log-ed25519": KeyKind.ED25519,  # checkpoints of the access log
    "log-sm2": KeyKind.SM2,  # the same, in national cryptography
    "certificate-ed25519": KeyKind.ED25519,  # certificates of erasure
    "certificate-sm2": KeyKind.SM2,  # the same, in national cryptography
    "backup-ed25519": KeyKind.ED25519,  # manifests of backups
    "backup-sm2": KeyKind.SM2,  # the same, in national cryptography
    "witness-ed25519": KeyKind.ED25519,  # a witness's word on checkpoints; in a folder of its own
}


class KeyVersion(NamedTuple):
    """A version of a key. Times are UTC microseconds; none: not known, as of what was made before it was noted."""

    number: int
    made_us: int | None
    is_destroyed: bool = False
    destroyed_us: int | None = None


class KeyMissing(Unavailable):
    """A key that should be there is not. It is never made by the way: what its predecessor sealed would be lost unsaid."""

    code = "key-missing"


class KeyGone(VitalgridError):
    """The key was destroyed on purpose; nothing brings back what was sealed under it."""

    code = "key-gone"


class KeyProvider(Protocol):
    """Operations with keys by name. All raise KeyMissing, KeyGone, or IntegrityViolation when the key itself is damaged.

    A name of another kind than the operation needs is an error of the caller's program (ValueError). Calls may come
    from any thread.
    """

    def versions(self, name: str) -> tuple[int, ...]:
        """Versions that can be used, the oldest first; none when the key was never made, or all were destroyed."""
        ...

    def history(self, name: str) -> tuple[KeyVersion, ...]:
        """All versions there ever were, the destroyed ones too, the oldest first; the last is in force."""
        ...

    def mac(self, name: str, message: bytes, *, version: int | None = None) -> bytes:
        """HMAC-SM3 under a version of the key, the newest if none is named. 32 bytes, always the same ones."""
        ...

    def wrap(self, name: str, content: bytes, bound_to: bytes) -> bytes:
        """Seal a short secret. It opens with the same `bound_to` only: say there whose it is and where it is kept."""
        ...

    def unwrap(self, name: str, wrapped: bytes, bound_to: bytes) -> bytes:
        """What `wrap` sealed, under whichever version. Raises IntegrityViolation for anything else."""
        ...

    def version_of(self, wrapped: bytes) -> int:
        """Under which version `wrap` sealed this; opens nothing, so that a wrong answer is possible for what is damaged."""
        ...

    def sign(self, name: str, message: bytes, *, version: int | None = None) -> bytes:
        """A signature of the key's kind, by its newest version if none is named.

        Ed25519: 64 bytes. SM2: DER, with the default signer id.
        """
        ...

    def public_key(self, name: str, *, version: int | None = None) -> bytes:
        """Ed25519: 32 bytes. SM2: x and y, 64 bytes. A version that is named has it when it was destroyed, too."""
        ...

    def rotate(self, name: str) -> int:
        """Make the next version, the first one too, durably; returns its number. Raises Conflict when another did so now."""
        ...

    def destroy(self, name: str, version: int) -> None:
        """Forget a version for good; nobody has to be asked twice, but what a kill left of it a second time takes away.

        What was sealed under it can no longer be opened. Signatures can be checked for ever: its public key stays.
        """
        ...


def make_missing(keys: KeyProvider, names: Iterable[str] = KEYS) -> list[str]:
    """Make keys that are not there; returns their names. For a first start: see KeyMissing."""
    missing = [name for name in names if not keys.versions(name)]
    for name in missing:
        keys.rotate(name)
    return missing


def newest(keys: KeyProvider, name: str) -> int:
    """The version in force, destroyed or not; 1 of a key that was never made, of which the provider says that it is missing."""
    return max((version.number for version in keys.history(name)), default=1)


def finish_destroying(keys: KeyProvider, name: str) -> None:
    """Take away what a kill left of versions that were being destroyed. For every start."""
    for version in keys.history(name):
        if version.is_destroyed:
            keys.destroy(name, version.number)
