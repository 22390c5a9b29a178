"""`vitalgrid backup`: copies of a platform while it works, and platforms made of such copies."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from cluster.backup_drill import Verdict, drill, report_file
from cluster.backup_making import Wish, create
from cluster.backup_restoring import Source, backup_at, keys_in, restore, verify
from cluster.backup_sources import expected_bytes
from cluster.command_options import DataDir
from cluster.run_target import settings_of
from cluster.run_view import wide_console
from domain.errors import IntegrityViolation, VitalgridError
from domain.instants import from_us
from domain.signed_notes import PublicKey
from runtime.backup_folder import BackupFolder
from runtime.backup_manifest import Manifest, read_manifest, signer_of
from runtime.clock import SystemClock
from runtime.data_keys import destroyed_in
from runtime.key_provider import provider_of
from runtime.keys import KeyMissing
from runtime.settings import Settings

backup = typer.Typer(name="backup", help="Backups: made beside the platform's work, verified, restored.", no_args_is_help=True)
_console = wide_console()
_MIB: Final = 2**20
_NICENESS: Final = 10  # readings and alarms go first

NewDataDir = Annotated[Path, typer.Option("--data-dir", help="Where the platform is to be: a folder that is not there yet.")]
To = Annotated[Path, typer.Option("--to", help="Folder of backups, on another disk.")]
At = Annotated[Path, typer.Option("--from", help="Folder of backups.")]
KeysTo = Annotated[
    Path | None,
    typer.Option("--keys", help="Folder for copies of the keys, in another place. Without them a backup opens for nobody."),
]
KeysAt = Annotated[Path | None, typer.Option("--keys", help="Folder that the keys of the backups were copied to.")]
Vkeys = Annotated[list[str] | None, typer.Option("--vkey", help="Key that signed, as `backup create` said it.")]
Name = Annotated[str | None, typer.Argument(help="Which backup, such as 20260801T030000Z; the newest, if left out.")]
Keep = Annotated[int, typer.Option("--keep", min=0, help="How many backups stay; older ones are deleted. 0: all.")]


@backup.command("create")
def create_backup(to: To, keys: KeysTo = None, keep: Keep = 0, data_dir: DataDir = None) -> None:
    """Copy the platform as it is, running or not. All that was acknowledged before is in the copy."""
    settings = settings_of(data_dir)
    os.nice(_NICENESS)
    with _progress(expected_bytes(settings)) as told:
        made = asyncio.run(create(settings, Wish(to, keys, keep), SystemClock(), told))
    _say(f"backup {made.name}: {made.size_bytes / _MIB:.1f} MiB in {len(made.files)} files, {_seconds(made)} s")
    for key in signer_of(provider_of(settings), settings.region_id).public_keys():
        _say(f"signed by {key.vkey}")
    if keys is None:
        _say("its keys are NOT copied: without a copy of them elsewhere (--keys) what is sealed opens for nobody")


@backup.command("list")
def list_backups(at: At) -> None:
    """Whole backups, the oldest first. Damaged manifests are named; `verify` looks at the files."""
    table = Table("backup", "began (UTC)", "seconds", "files", "MiB", "readings up to", "log entries", "keys copied")
    folder = BackupFolder(at)
    for name in folder.names():
        try:
            told = read_manifest(at / name)
        except VitalgridError as error:
            table.add_row(name, str(error))
            continue
        began, readings = from_us(told.began_us).strftime("%F %T"), told.streams.get("READINGS")
        table.add_row(
            name, began, _seconds(told), str(len(told.files)), f"{told.size_bytes / _MIB:.1f}",
            str(readings.last) if readings else "-", str(told.log.size) if told.log else "-", "yes" if told.has_keys else "no",
        )  # fmt: skip
    _console.print(table)


@backup.command("verify")
def verify_backup(at: At, name: Name = None, keys: KeysAt = None, vkey: Vkeys = None, data_dir: DataDir = None) -> None:
    """Compare every file with the signed manifest; a vkey or the copied keys do, without a platform. Exit 1: damaged."""
    source = Source(backup_at(at, name), keys.resolve() if keys else None)
    told = verify(source, _known(source, vkey, data_dir))
    _say(f"whole: backup {told.name}, {len(told.files)} files, {told.size_bytes / _MIB:.1f} MiB")


@backup.command("restore")
def restore_backup(
    at: At,
    data_dir: NewDataDir,
    name: Name = None,
    keys: KeysAt = None,
    without_keys: Annotated[bool, typer.Option("--without-keys", help="Restore what needs none; names stay shut.")] = False,
    vkey: Vkeys = None,
    erased: Annotated[
        Path | None, typer.Option("--erased", exists=True, help="The newest `destroyed.list` there is: whom to erase again.")
    ] = None,
) -> None:
    """Make a platform of a backup, in a folder that is not there yet. Then start it with `vitalgrid up`."""
    settings = settings_of(data_dir)
    source = Source(backup_at(at, name), keys.resolve() if keys else None)
    if keys is None and not without_keys:
        raise KeyMissing(
            "give --keys, the folder that the backup's keys were copied to; or --without-keys, and names stay shut"
        )
    known = _known(source, vkey, None)
    with _progress(read_manifest(source.backup).size_bytes) as told:
        made = asyncio.run(restore(settings, source, known, told, erased=destroyed_in(erased) if erased else ()))
    _say(
        f"restored backup {made.name} to {settings.data_dir}: everything acknowledged before {from_us(made.began_us):%F %T} UTC"
    )


@backup.command("drill")
def restore_drill(
    to: To,
    keys: KeysTo = None,
    keep: Keep = 0,
    start: Annotated[bool, typer.Option("--start", help="Also start what was restored, on free ports.")] = False,
    scratch_database: Annotated[str | None, typer.Option(help="An empty PostgreSQL database to restore into.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a backup, restore it beside, compare everything, and say whether it holds. Exit code 1: it does not."""
    settings = settings_of(data_dir)
    with _progress(2 * expected_bytes(settings)) as told:
        verdict = asyncio.run(
            drill(settings, Wish(to, keys, keep), SystemClock(), told, start=start, scratch_database=scratch_database)
        )
    _show(verdict)
    _say(f"report: {report_file(to, verdict)}")
    if not verdict.holds:
        raise IntegrityViolation(f"the drill failed: {', '.join(check.what for check in verdict.checks if not check.holds)}")


def _show(verdict: Verdict) -> None:
    table = Table("compared", "holds", "what", title=f"drill of backup {verdict.backup}")
    for check in verdict.checks:
        table.add_row(check.what, "yes" if check.holds else "NO", check.says)
    _console.print(table, markup=False)
    started = "" if verdict.started_s is None else f", answering {verdict.started_s:.1f} s later"
    size = verdict.backup_bytes / _MIB
    _say(f"{size:.1f} MiB backed up in {verdict.backup_s:.1f} s, restored in {verdict.restore_s:.1f} s{started}")
    _say(f"lost with the platform would be what is acknowledged later than {verdict.loss_s:.1f} s before the backup's end")


def _known(source: Source, vkeys: Sequence[str] | None, data_dir: Path | None) -> list[PublicKey]:
    """With whose keys to verify: those given, else those beside the backup's keys, else this platform's."""
    if vkeys:
        return [PublicKey.parse(vkey) for vkey in vkeys]
    if source.keys is not None:
        return keys_in(source)
    return _of_platform(settings_of(data_dir), source)


def _of_platform(settings: Settings, source: Source) -> list[PublicKey]:
    try:
        return signer_of(provider_of(settings), read_manifest(source.backup).region_id).public_keys()
    except KeyMissing:
        raise KeyMissing("nobody is known who could have signed: give --vkey, --keys or the platform's --data-dir") from None


def _seconds(manifest: Manifest) -> str:
    return f"{(manifest.ended_us - manifest.began_us) / 1e6:.1f}"


def _say(sentence: str) -> None:
    _console.print(sentence, highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def _progress(total_bytes: int) -> Iterator[Callable[[str, int], None]]:
    """A bar on a terminal; nothing where nobody looks."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total_bytes)

        def told(what: str, size_bytes: int) -> None:
            progress.update(task, description=what, advance=size_bytes)

        yield told
