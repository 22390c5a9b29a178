"""Short texts about people, sealed with SM4-GCM before they are stored. Clauses 7.2c, 9.3, 9.3h.

A sealed text is `v1|<number of its data key>|<base64 of nonce, ciphertext and tag>`, and bound to table, column and row:
copied elsewhere it does not open. Whoever holds the database alone, or a copy of it, reads none of them; when a
patient's data key is destroyed nobody does any more. `runtime.data_keys` says where these keys are.
"""

from __future__ import annotations

import binascii
import os
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from domain.errors import IntegrityViolation
from runtime.data_keys import DataKeys, Owner
from runtime.keys import KeyGone, KeyMissing, KeyProvider
from runtime.sm import GCM_NONCE_BYTES, hmac_sm3, sm4_gcm_open, sm4_gcm_seal

BLIND: Final = "blind"
SEALING_KEYS: Final = ("fields", BLIND)  # of the provider
DATA_KEYS_FILE: Final = "data_keys.db"
WRITES: Final = Owner("region/writes")  # reasons of writes that concern no patient
_FRONT: Final = "v1|"
_INDEX_BYTES: Final = 16


class Place(NamedTuple):
    """Where a text is stored: it opens there and nowhere else. `row` names the row, for ever."""

    table: str
    column: str
    row: str


class Shut(Enum):
    """Why a text does not open."""

    ERASED = "erased"  # its data key was destroyed
    DAMAGED = "damaged"  # it was changed or moved, or its data key is not here


Opened = str | Shut


PATIENT_OWNER: Final = "patient/"  # and the patient's key


def patient_owner(hospital_id: str, patient_key: str) -> Owner:
    """Whose key seals what is known of a patient."""
    return Owner(f"{PATIENT_OWNER}{patient_key}", hospital_owner(hospital_id, "patients").name)


def hospital_owner(hospital_id: str, kind: str) -> Owner:
    """Whose key seals texts of a hospital that belong to no one patient."""
    return Owner(f"hospital/{hospital_id}/{kind}")


class Sealer:
    """Seals and opens. Calls may come from any thread; all raise KeyMissing and Unavailable."""

    def __init__(self, keys: KeyProvider, data_keys: DataKeys, *, seals_values: bool = False) -> None:
        self._keys = keys
        self.data_keys = data_keys
        self.seals_values = seals_values  # what alarms say is sealed as well, and not names and words about people alone
        self._index_keys: dict[tuple[str, int], bytes] = {}

    @classmethod
    def over(cls, keys: KeyProvider, folder: Path, *, seals_values: bool = False) -> Sealer:
        """With the data keys that are kept in `folder`, beside the keys."""
        return cls(keys, DataKeys(folder / DATA_KEYS_FILE, keys), seals_values=seals_values)

    def seal(self, owner: Owner, place: Place, text: str) -> str:
        """Raises KeyGone when the owner's key was destroyed."""
        return self.seal_many([(owner, place, text)])[0]

    def seal_many(self, texts: Sequence[tuple[Owner, Place, str]], *, are_new: bool = False) -> list[str]:
        """As `seal`, of many at once; with `are_new` keys that owners have not got yet are made, as by `DataKeys.of_owners`."""
        keys = self.data_keys.of_owners([owner for owner, _, _ in texts], are_new=are_new)
        return [_sealed(*keys[owner.name], place, text) for owner, place, text in texts]

    def open(self, place: Place, sealed: str) -> Opened:
        return self.open_many([(place, sealed)])[0]

    def open_many(self, texts: Iterable[tuple[Place, str]]) -> list[Opened]:
        """Each text, or why it does not open."""
        parts = [(place, _parts(sealed)) for place, sealed in texts]
        secrets = self.data_keys.of_kids(found[0] for _, found in parts if found is not None)
        return [_opened(secrets, place, found) for place, found in parts]

    def index_versions(self) -> tuple[int, ...]:
        """Versions of the key that texts may be found under, the newest first: new ones are indexed under that.

        Raises KeyMissing, and KeyGone when the newest was destroyed.
        """
        history = self._keys.history(BLIND)
        if not history:
            raise KeyMissing(f"key {BLIND} is missing: restore the folder of keys")
        if history[-1].is_destroyed:
            raise KeyGone(f"version {history[-1].number} of key {BLIND} was destroyed")
        there = tuple(version.number for version in reversed(history) if not version.is_destroyed)
        self._index_keys = {known: key for known, key in self._index_keys.copy().items() if known[1] in there}
        return there

    def index(self, scope: str, text: str, version: int) -> str:
        """Always the same for the same text in a scope, and says nothing of it to who has no key: for equality."""
        key = self._index_keys.get((scope, version))
        if key is None:  # a key for each scope, so that the provider is not asked for each text
            key = self._index_keys[scope, version] = self._keys.mac(BLIND, scope.encode(), version=version)
        return index_front(version) + hmac_sm3(key, text.encode("utf-8", "surrogatepass"))[:_INDEX_BYTES].hex()


def index_front(version: int) -> str:
    """What an index begins with, by which it is known under which version of the key it is; the first has nothing."""
    return f"{version}|" if version > 1 else ""


def index_version(index: str) -> int:
    """Under which version of the key an index is."""
    version, is_newer, _ = index.partition("|")
    return int(version) if is_newer else 1


def is_sealed(text: str) -> bool:
    """Whether this looks like a sealed text. Rows of the write log are older than sealing, and cannot be changed."""
    return _parts(text) is not None


def _sealed(kid: int, secret: bytes, place: Place, text: str) -> str:
    nonce = os.urandom(GCM_NONCE_BYTES)
    sealed = sm4_gcm_seal(secret, nonce, text.encode("utf-8", "surrogatepass"), _bound(place))
    return f"{_FRONT}{kid:016x}|{b64encode(nonce + sealed).decode()}"


def _opened(secrets: dict[int, bytes | None], place: Place, parts: tuple[int, bytes] | None) -> Opened:
    if parts is None or parts[0] not in secrets:
        return Shut.DAMAGED
    secret = secrets[parts[0]]
    if secret is None:
        return Shut.ERASED
    try:
        content = sm4_gcm_open(secret, parts[1][:GCM_NONCE_BYTES], parts[1][GCM_NONCE_BYTES:], _bound(place))
    except (IntegrityViolation, ValueError):  # ValueError: a nonce that is too short
        return Shut.DAMAGED
    return content.decode("utf-8", "surrogatepass")


def _parts(sealed: str) -> tuple[int, bytes] | None:
    """Number of the key, and nonce with ciphertext and tag; None for what is no sealed text."""
    if not sealed.startswith(_FRONT) or sealed.count("|") != 2:
        return None
    _, kid, content = sealed.split("|")
    try:
        return int(kid, 16), b64decode(content, validate=True)
    except (ValueError, binascii.Error):
        return None


def _bound(place: Place) -> bytes:
    """No two places alike: the lengths stand in front."""
    return f"{len(place.table)}|{len(place.column)}|{place.table}{place.column}{place.row}".encode("utf-8", "surrogatepass")
