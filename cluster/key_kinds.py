"""What each key of the platform is for: what is under it, where that lies, and what moves it under a newer version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from cluster.sealing import StreamSeal, file_seal
from domain.errors import Unavailable
from domain.ports import Clock
from runtime.keys import KeyProvider, newest
from runtime.sealing import Sealer
from runtime.second_factors import SecondFactors
from runtime.settings import Settings
from runtime.sql.blind_indexes import index_anew, indexed_under, rotate_blind
from runtime.sql.sealed_accounts import former_passwords_under, passwords_under, seal_seeds_anew, seeds_under

TOTP: Final = "totp"
PEPPER: Final = "pepper"
FORMER: Final = "former passwords"


@dataclass(frozen=True, slots=True)
class Stores:
    """A platform's stores, as an order about its keys finds them."""

    settings: Settings
    keys: KeyProvider
    engine: Engine
    sealer: Sealer
    clock: Clock


Uses = Mapping[str, Counter[int]]  # where something lies -> how much of it is under each version


def _nothing(_: Stores) -> Uses:
    return {}


@dataclass(frozen=True, slots=True)
class Kind:
    """`then`: what a rotation changes, beyond what `reseal` moves at once. `moves`: what moves the rest, for who must wait.

    `refused`: why this key cannot be rotated by the platform, and what to do instead.
    """

    seals: str
    then: str
    uses: Callable[[Stores], Uses] = _nothing
    moves: str = ""
    moved: str = ""
    reseal: Callable[[Stores], int] | None = None
    refused: str | None = None


def rotate(stores: Stores, name: str) -> int:
    """Make the next version; its number. `blind` is one that writers must not meet half-way."""
    return rotate_blind(stores.engine, stores.keys) if name == "blind" else stores.keys.rotate(name)


def _data_keys(stores: Stores) -> Uses:
    return {"data keys": Counter(stores.sealer.data_keys.wrapped_under())}


def _references(stores: Stores) -> Uses:
    return {"references of patients": indexed_under(stores.engine)}


def _seeds(stores: Stores) -> Uses:
    return {"second factors": seeds_under(stores.engine, SecondFactors(stores.keys))}


def _seeds_anew(stores: Stores) -> int:
    return seal_seeds_anew(stores.engine, SecondFactors(stores.keys), newest(stores.keys, TOTP))


def _passwords(stores: Stores) -> Uses:
    return {"passwords of users": passwords_under(stores.engine), FORMER: former_passwords_under(stores.engine)}


def _files(stores: Stores) -> Uses:
    """Those on disk, whether or not the newest version of the lake needs them. Raises Unavailable where there is no lake."""
    settings, seal = stores.settings, file_seal(stores.settings)
    lake = settings.lake_dir.resolve()
    if not (lake / "_delta_log").is_dir():
        raise Unavailable(f"there is no lake in {lake}: is its disk mounted?")
    places = {"files of the lake": lake, "snapshots": settings.data_dir.resolve() / "snapshots"}
    return {what: _versions(folder, seal.version_of) for what, folder in places.items()}


def _versions(folder: Path, version_of: Callable[[Path], int | None]) -> Counter[int]:
    found: Counter[int] = Counter()
    for path in folder.rglob("*"):
        try:
            version = version_of(path) if path.is_file() else None
        except FileNotFoundError:  # deleted since it was listed
            continue
        if version is not None:
            found[version] += 1
    return found


def _streams(stores: Stores) -> Uses:
    """Raises Unavailable where there are no streams, and KeyMissing where they do not say under what they are."""
    folder = stores.settings.data_dir.resolve() / "nats"
    if not folder.is_dir():
        raise Unavailable(f"there are no streams in {folder}: is its disk mounted?")
    return {"the streams' store": Counter(StreamSeal(stores.settings).versions())}


_LOG: Final = (
    "checkpoints are signed by it from the next entry on. Tell its vkey (GET /api/v1/log/keys) to whoever verifies, and to "
    "witnesses elsewhere (vitalgrid witness --log-vkey, the old ones too), which sign nothing before they know it"
)
_CERTIFICATES: Final = "the next certificate is signed by it; earlier ones hold by the older public keys, which stay"
_BACKUPS: Final = "the next backup is signed by it: keep the vkey lines that it prints; earlier backups hold by the older ones"
_WITNESS: Final = (
    "a witness is known by its key to all who verify: another key is another witness. Elsewhere: begin one with a folder and a "
    "name of its own (vitalgrid witness), put it into audit.witnesses, then end the old one. The platform's own: stop, move "
    "the folder `witness` aside, start; its vkey is in `witness/vkey`"
)

KINDS: Final[Mapping[str, Kind]] = {
    PEPPER: Kind(
        "passwords of users", "each password is made anew with it when its user signs in", _passwords,
        "each user's goes under the newest at their next sign-in; `vitalgrid user reset` those who do not come; former ones "
        "must not come back, and are forgotten with --forget-former-passwords",
    ),
    TOTP: Kind(
        "seeds of one-time codes", "", _seeds,
        "`vitalgrid keys reseal totp` moves them; what stays is damaged: `vitalgrid user reset-factor`",
        "second factors", _seeds_anew,
    ),
    "fields": Kind(
        "data keys, which seal names, references, notes, reasons, and what alarms say", "", _data_keys,
        "`vitalgrid keys reseal fields` moves them; what stays does not open: damaged",
        "data keys", lambda stores: stores.sealer.data_keys.wrap_anew(),
    ),
    "blind": Kind(
        "what references of patients are found by", "", _references,
        "`vitalgrid keys reseal blind` moves them; what stays does not open: damaged, or without its data key",
        "references of patients", lambda stores: index_anew(stores.engine),
    ),
    "lake": Kind(
        "files of lake and snapshots, streams in backups",
        "new files go under it at once; upkeep replaces older ones, eight a round, and deletes them two days later", _files,
        "upkeep replaces older files while the platform runs and deletes them two days later; snapshots go as newer ones come",
    ),
    "streams": Kind(
        "nats-server's store",
        "nats-server takes a key at its start alone: the streams go under it when the platform is started anew", _streams,
        "stop the platform and start it",
    ),
    "log-ed25519": Kind("checkpoints of the access log", _LOG),
    "log-sm2": Kind("checkpoints of the access log", _LOG),
    "certificate-ed25519": Kind("certificates of erasure", _CERTIFICATES),
    "certificate-sm2": Kind("certificates of erasure", _CERTIFICATES),
    "backup-ed25519": Kind("manifests of backups", _BACKUPS),
    "backup-sm2": Kind("manifests of backups", _BACKUPS),
    "witness-ed25519": Kind("a witness' word on checkpoints", "", refused=_WITNESS),
}  # fmt: skip
