"""`vitalgrid keys`: which keys there are, and newer ones in place of those that seal. Beside a running platform or without."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from cluster.command_options import DataDir
from cluster.first_start import sealer_of
from cluster.run_target import settings_of
from cluster.run_view import wide_console
from domain.errors import InvalidInput, NotFound
from runtime.data_keys import WRAPPED_BY
from runtime.key_provider import provider_of
from runtime.keys import KEYS

keys = typer.Typer(name="keys", help="Keys of the platform on this machine: back them up, nothing else opens what is sealed.")
_console = wide_console()

Name = Annotated[str, typer.Argument(help="Which key: fields.")]


@keys.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """Each key, its kind and its versions; of `fields` how many data keys each version wraps."""
    settings = settings_of(data_dir)
    provider, data_keys = provider_of(settings), sealer_of(settings).data_keys
    wrapped = data_keys.wrapped_under() if data_keys.exists() else {}
    table = Table("key", "kind", "versions", "wraps")
    for name, kind in KEYS.items():
        versions = provider.versions(name)
        told = ", ".join(f"{wrapped.get(version, 0)} under {version}" for version in versions) if name == WRAPPED_BY else ""
        table.add_row(name, kind.value, " ".join(map(str, versions)) or "none", told)
    _console.print(table)


@keys.command("rotate")
def rotate(name: Name, data_dir: DataDir = None) -> None:
    """Make the next version of a key, and wrap under it what older ones wrap. Ended halfway, the next start goes on."""
    if name != WRAPPED_BY:
        known = "none but fields can be rotated yet" if name in KEYS else f"expected one of {', '.join(KEYS)}"
        raise InvalidInput(f"key {name!r} cannot be rotated: {known}")
    settings = settings_of(data_dir)
    provider, data_keys = provider_of(settings), sealer_of(settings).data_keys
    if not provider.versions(name):
        raise NotFound(f"there is no key {name} in {settings.keys_dir}: the first start makes it")
    version = provider.rotate(name)
    count = data_keys.wrap_anew()
    _console.print(f"version {version} of key {name} is in force, {count} data keys are wrapped under it: back up the keys now")
