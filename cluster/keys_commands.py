"""`vitalgrid keys`: which keys there are, newer ones in place of those that seal, and old ones destroyed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

import typer
from rich.table import Table

from cluster.command_options import DataDir
from cluster.key_kinds import KINDS, Stores
from cluster.key_orders import check_destroy, destroy_key, kind_of, opened, reseal_key, rotate_key, uses_of
from cluster.run_target import settings_of
from cluster.run_view import wide_console
from domain.errors import InvalidInput, VitalgridError
from domain.instants import from_us
from runtime.clock import SystemClock
from runtime.key_provider import provider_in
from runtime.keys import KEYS, KeyVersion
from runtime.settings import Settings

keys = typer.Typer(name="keys", help="Keys of the platform on this machine: back them up, nothing else opens what is sealed.")
_console = wide_console()
_COPIES: Final = (
    "Copies of keys from before still have it, and with them whatever was copied while it was in use: delete those copies, or "
    "keep them as long as the backups that need them"
)

Name = Annotated[str, typer.Argument(help=f"Which key: {', '.join(KEYS)}.")]
Version = Annotated[int, typer.Argument(min=1, help="Its number, as `vitalgrid keys list` says.")]
Yes = Annotated[bool, typer.Option("--yes", help="Destroy it; without, say only whether that could be done.")]
ForgetFormer = Annotated[
    bool, typer.Option("--forget-former-passwords", help="Of `pepper`: replaced passwords made with it may be chosen again.")
]


@keys.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """Each key with what it is for; each version with its state, its time, and how much is under it."""
    settings = settings_of(data_dir)
    table = Table("key", "kind", "for", "version", "state", "made", "destroyed", "under it")
    with opened(settings, SystemClock()) as stores:
        for name, kind in KEYS.items():
            of_key = (name, kind.value, KINDS[name].seals)
            for cells in _versions(_history(settings, stores, name), stores, name):
                table.add_row(*of_key, *cells)
                of_key = ("", "", "")
    _console.print(table)


@keys.command("rotate")
def rotate(name: Name, data_dir: DataDir = None) -> None:
    """Make the next version of a key, for all that is sealed from now on. Ended halfway, the next start goes on."""
    kind = kind_of(name)
    with opened(settings_of(data_dir), SystemClock()) as stores:
        version, moved = rotate_key(stores, name)
    then = f"{moved} {kind.moved} are under it" if kind.reseal is not None else kind.then
    _say(f"version {version} of key {name} is in force: {then}. Back up the keys now")


@keys.command("reseal")
def reseal(name: Name, data_dir: DataDir = None) -> None:
    """Move under the version in force what is under older ones, where an order can (fields, blind, totp)."""
    with opened(settings_of(data_dir), SystemClock()) as stores:
        moved = reseal_key(stores, name)
    _say(f"key {name}: {moved} {kind_of(name).moved} moved under the version in force")


@keys.command("destroy")
def destroy(
    name: Name, version: Version, *, yes: Yes = False, forget_former: ForgetFormer = False, data_dir: DataDir = None
) -> None:  # fmt: skip
    """Destroy an old version for good. Refused while anything is under it, and says where that is."""
    with opened(settings_of(data_dir), SystemClock()) as stores:
        if not yes:
            check_destroy(stores, name, version, forget_former=forget_former)
            raise InvalidInput(f"nothing is under version {version} of key {name}: it can be destroyed for good, with --yes")
        destroy_key(stores, name, version, forget_former=forget_former)
    _say(f"version {version} of key {name} is destroyed. {_COPIES}")


def _history(settings: Settings, stores: Stores, name: str) -> tuple[KeyVersion, ...]:
    """A witness has its key in a folder of its own."""
    provider = provider_in(settings.witness_dir / "keys") if name.startswith("witness") else stores.keys
    return provider.history(name)


def _under(stores: Stores, name: str) -> dict[int, str]:
    """How much is under each version, in words; why that cannot be said, at 0."""
    try:
        uses = uses_of(stores, name)
    except VitalgridError as error:
        return {0: str(error)}
    versions = {version for under in uses.values() for version in under}
    return {n: ", ".join(f"{under[n]} {what}" for what, under in uses.items() if under[n]) for n in versions}


def _versions(history: tuple[KeyVersion, ...], stores: Stores, name: str) -> Iterator[tuple[str, ...]]:
    if not history:
        yield "-", "never made"
        return
    under = _under(stores, name)
    for version in history:
        state = "destroyed" if version.is_destroyed else "in force" if version is history[-1] else "old"
        made = "not known" if version.made_us is None else _time(version.made_us)
        destroyed = "" if version.destroyed_us is None else _time(version.destroyed_us)
        yield str(version.number), state, made, destroyed, under.get(version.number) or under.get(0, "")


def _time(time_us: int) -> str:
    return f"{from_us(time_us):%F %T}"


def _say(text: str) -> None:
    _console.print(text, highlight=False, markup=False, soft_wrap=True)
