"""Orders about keys: rotate, reseal, destroy. Each is in the write log, and so in the access log, before it is carried out.

Beside a running platform or without: every process reads keys at each use. What a kill leaves undone the next start does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
from collections.abc import Iterator
from typing import Final

from cluster.connection import check_owner
from cluster.first_start import sealer_of
from cluster.key_kinds import FORMER, KINDS, PEPPER, Kind, Stores, Uses, rotate
from domain.errors import Conflict, InvalidInput, NotFound
from domain.ports import Clock
from domain.principals import OF_MACHINE
from runtime.key_provider import provider_of
from runtime.keys import KEYS, KeyVersion
from runtime.sealed_file import KEY as LAKE
from runtime.settings import Settings
from runtime.sql.engine import open_engine
from runtime.sql.records import Author, note_write
from runtime.sql.sealed_accounts import forget_former_passwords, users_under

SETTLED_S: Final = 3_600.0  # what was begun under a version is stored by then, or not at all
_NAMED: Final = 10  # users, in a refusal


@contextlib.contextmanager
def opened(settings: Settings, clock: Clock) -> Iterator[Stores]:
    """The platform's stores. Raises NotFound where there is no platform."""
    if settings.database_url is None and not (settings.data_dir / "vitalgrid.db").exists():
        raise NotFound(f"there is no platform's database in {settings.data_dir}: its first start makes the keys")
    sealer = sealer_of(settings)
    engine = open_engine(settings.sql_url, sealer)
    try:
        yield Stores(settings, provider_of(settings), engine, sealer, clock)
    finally:
        engine.dispose()
        sealer.data_keys.close()


@contextlib.contextmanager
def ordered(stores: Stores) -> Iterator[None]:
    """One order at a time, by the platform's own user. Raises Conflict, Forbidden."""
    check_owner(stores.settings.data_dir, "give orders about keys")
    with _held(stores.settings, fcntl.LOCK_EX, "another order about keys, or a backup, is being carried out: wait for it"):
        yield


@contextlib.contextmanager
def undisturbed(settings: Settings) -> Iterator[None]:
    """No order about keys is carried out meanwhile: what is copied opens with the keys that are copied. Raises Conflict."""
    with _held(settings, fcntl.LOCK_SH, "an order about keys is being carried out: wait for it"):
        yield


@contextlib.contextmanager
def _held(settings: Settings, how: int, otherwise: str) -> Iterator[None]:
    descriptor = os.open(settings.keys_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(otherwise) from None
        yield
    finally:
        os.close(descriptor)


def rotate_key(stores: Stores, name: str) -> tuple[int, int]:
    """Make the next version and move under it what can be moved at once; the version, and how much was.

    Raises InvalidInput for a key that cannot be rotated, NotFound for one that was never made, Unavailable.
    """
    kind = kind_of(name)
    history = _history(stores, name)
    if name == LAKE and not stores.settings.seals_files:
        raise Conflict("nothing new is sealed here (security.seal_files is off), so a newer version would seal nothing")
    with ordered(stores):
        _note(stores, "key.rotate", name, history[-1].number + 1)
        version = rotate(stores, name)
        moved = 0 if kind.reseal is None else kind.reseal(stores)
        _note(stores, "key.rotated", name, version, moved=moved)
    return version, moved


def reseal_key(stores: Stores, name: str) -> int:
    """Move under the version in force what is under older ones; how much was. Raises InvalidInput where nothing can be."""
    kind = kind_of(name)
    if kind.reseal is None:
        raise InvalidInput(f"nothing under key {name} is moved by an order: {kind.moves or 'what was signed stays as it is'}")
    version = _history(stores, name)[-1].number
    with ordered(stores):
        _note(stores, "key.reseal", name, version)
        moved = kind.reseal(stores)
        _note(stores, "key.resealed", name, version, moved=moved)
    return moved


def check_destroy(stores: Stores, name: str, version: int, *, forget_former: bool = False) -> None:
    """Raises Conflict while the version is in force, was until just now, or something is under it; NotFound, InvalidInput."""
    kind = kind_of(name)
    found = {known.number: known for known in _history(stores, name)}
    if version not in found:
        raise NotFound(f"there is no version {version} of key {name}: expected one of {', '.join(map(str, found))}")
    following = found.get(version + 1)
    if following is None:
        raise Conflict(f"version {version} of key {name} is in force: rotate first")
    if found[version].is_destroyed:
        return
    age_s = SETTLED_S if following.made_us is None else max(0, stores.clock.now_us() - following.made_us) / 1e6
    if age_s < SETTLED_S:
        raise Conflict(
            f"version {version} of key {name} was in force until {age_s / 60:.0f} minutes ago, and what was begun under it "
            f"may not be stored yet: wait until it is {SETTLED_S / 60:.0f}"
        )
    left = {what: under[version] for what, under in kind.uses(stores).items() if under[version]}
    if forget_former:
        left.pop(FORMER, None)
    if left:
        told = ", ".join(f"{count} {what}" for what, count in left.items())
        raise Conflict(f"under version {version} of key {name} are {told}{_whose(stores, name, version)}: {kind.moves}")


def destroy_key(stores: Stores, name: str, version: int, *, forget_former: bool = False) -> None:
    """Destroy a version that nothing is under any more. Raises as `check_destroy`."""
    with ordered(stores):
        check_destroy(stores, name, version, forget_former=forget_former)
        _note(stores, "key.destroy", name, version)
        if forget_former and name == PEPPER:
            forget_former_passwords(stores.engine, version)
        stores.keys.destroy(name, version)
        _note(stores, "key.destroyed", name, version)


def kind_of(name: str) -> Kind:
    """Raises InvalidInput for what is no key, and for one that takes no orders."""
    if name not in KINDS:
        raise InvalidInput(f"{name!r} is no key: expected one of {', '.join(KEYS)}")
    kind = KINDS[name]
    if kind.refused is not None:
        raise InvalidInput(f"key {name} takes no orders here: {kind.refused}")
    return kind


def uses_of(stores: Stores, name: str) -> Uses:
    return KINDS[name].uses(stores)


def _history(stores: Stores, name: str) -> tuple[KeyVersion, ...]:
    history = stores.keys.history(name)
    if not history:
        raise NotFound(
            f"there is no key {name} in {stores.settings.keys_dir}: the first start makes it, or sealing (lake, streams), or "
            "the first backup (backup)"
        )
    return history


def _whose(stores: Stores, name: str, version: int) -> str:
    if name != PEPPER:
        return ""
    names = users_under(stores.engine, version)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f" ({', '.join(names[:_NAMED])}{more})" if names else ""


def _note(stores: Stores, action: str, name: str, version: int, **detail: int) -> None:
    """By whom: the account of this machine. In clear, so that it needs none of the keys that it is about."""
    who = f"{OF_MACHINE}{pwd.getpwuid(os.geteuid()).pw_name}"
    author = Author(who, f"vitalgrid keys: {action.removeprefix('key.')}", stores.clock.now_us(), is_platform=True)
    note_write(stores.engine, author, action, f"key {name}", {"version": version, **detail})
