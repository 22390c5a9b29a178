"""`vitalgrid log`: verify the access log, and show what it has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from cluster.command_options import DataDir
from cluster.first_start import sealer_of
from cluster.pki import authority_of
from cluster.run_target import settings_of, token_of
from cluster.run_view import wide_console
from domain.audit_reading import said
from domain.errors import IntegrityViolation, NotFound, VitalgridError
from domain.instants import from_us
from domain.log_entries import read_entry
from runtime.erasure_certificates import certificate_signer, own_vkeys, verify_bundle
from runtime.key_provider import provider_of
from runtime.log_events import events_between
from runtime.log_fsck import check_log
from runtime.log_signing import LogSigner
from runtime.log_store import LogReader
from runtime.log_verifier import CouldNotCheck, DoesNotHold, Source, describe, verify_log
from runtime.sealing import Sealer
from runtime.settings import Settings
from runtime.sql.sealed import reason_shown

log = typer.Typer(name="log", help="The access log: does it hold, and what is in it.", no_args_is_help=True)
_console = wide_console()
_EVENT_CHARS: Final = 400


Where = Annotated[str | None, typer.Argument(help="Folder of a log, or https://host:port/api/v1/log; none: this platform's.")]
Vkeys = Annotated[list[str] | None, typer.Option("--vkey", help="Key to verify with; none: this platform's own.")]
WitnessVkeys = Annotated[list[str] | None, typer.Option("--witness-vkey", help="Key of a witness who must have signed too.")]
Certificate = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, help="As GET /patients/{key}/erasure/certificate answers.")
]
LogVkeys = Annotated[list[str] | None, typer.Option("--log-vkey", help="Key of the access log; none: this platform's own.")]
Since = Annotated[Path | None, typer.Option("--since", help="An earlier checkpoint, kept elsewhere: what it says must hold.")]
Token = Annotated[str | None, typer.Option("--token", help="API token, for an address (default: this machine's own).")]
Ca = Annotated[Path | None, typer.Option("--ca", help="Authority of an address' certificate (default: this platform's own).")]
Before = Annotated[
    int,
    typer.Option(
        "--unexplained-before", min=0, metavar="INDEX",
        help="Below this entry events may be gone without an entry that says why: of a log of a version that wrote none.",
    ),
]  # fmt: skip
Last = Annotated[int, typer.Option("--last", min=1, help="How many entries, from the end.")]


@log.command("verify")
def verify(  # noqa: PLR0913, PLR0917 (one option each)
    where: Where = None, vkey: Vkeys = None, witness_vkey: WitnessVkeys = None, since: Since = None, token: Token = None,
    ca: Ca = None, unexplained_before: Before = 0, data_dir: DataDir = None,
) -> None:  # fmt: skip
    """Verify everything: signatures, each entry, each tile, the root, and the events beside them.

    Exit code 1: it does not hold; 2: it could not be checked.
    """
    settings = settings_of(data_dir)
    where = where or str(settings.audit_dir)
    try:
        vkeys = vkey or [key.vkey for key in _signer(settings).public_keys()]
        earlier = since.read_bytes() if since else None
        report = verify_log(_source(where, token, ca, settings), vkeys, earlier, witness_vkey, unexplained_before)
    except DoesNotHold as error:
        raise IntegrityViolation(f"the log does not hold: {error}") from None
    except (CouldNotCheck, VitalgridError, OSError) as error:
        _console.print(f"[red]the log could not be checked: {escape(str(error))}[/red]", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    _console.print(f"holds: {describe(report)}", highlight=False, markup=False, soft_wrap=True)


def _source(where: str, token: str | None, ca: Path | None, settings: Settings) -> Source:
    if not where.startswith("http"):
        return Source(where)
    authority = ca or authority_of(settings).file
    return Source(where, token or token_of(settings.data_dir), str(authority) if ca or authority.exists() else None)


@log.command("verify-certificate")
def verify_certificate(file: Certificate, vkey: Vkeys = None, log_vkey: LogVkeys = None, data_dir: DataDir = None) -> None:
    """Verify a certificate of erasure, and that the access log has it. Needs the file and the keys, and no platform."""
    settings = settings_of(data_dir)
    signer = certificate_signer(provider_of(settings), settings.audit_origin)
    text = verify_bundle(
        file.read_bytes(), vkey or own_vkeys(signer), log_vkey or [key.vkey for key in _signer(settings).public_keys()]
    )  # fmt: skip
    _console.print(f"holds:\n{text}", highlight=False, markup=False, soft_wrap=True)


@log.command("fsck")
def fsck(unexplained_before: Before = 0, data_dir: DataDir = None) -> None:
    """Recompute every tile and signed root from the entries, and name all that is damaged. Exit code 1: something is."""
    settings = settings_of(data_dir)
    if not settings.audit_dir.exists():
        raise NotFound(f"there is no access log in {settings.audit_dir}")
    found = check_log(settings.audit_dir, _signer(settings), unexplained_before)
    for damage in found.damages:
        _console.print(f"damaged: {damage}", highlight=False, markup=False, soft_wrap=True)
    if found.damages:
        raise IntegrityViolation(f"{len(found.damages)} places of the log in {settings.audit_dir} are damaged")
    emptied = f", {found.emptied} of them without their event" if found.emptied else ""
    _console.print(f"whole: {found.entries} entries{emptied}, {found.files} files", highlight=False)


@log.command("show")
def show(last: Last = 20, data_dir: DataDir = None) -> None:
    """The newest entries with their events, as they lie on this machine."""
    settings = settings_of(data_dir)
    checkpoint = LogReader(settings.audit_dir).checkpoint()
    if checkpoint is None:
        raise NotFound(f"there is no access log in {settings.audit_dir}")
    sealer = sealer_of(settings)
    table = Table("entry", "time (UTC)", "by", "who", "what", "why", title=f"{checkpoint.origin}: {checkpoint.size} entries")
    for event in events_between(settings.audit_dir, max(checkpoint.size - last, 0), checkpoint.size):
        entry = read_entry(event.entry)
        table.add_row(
            str(event.at), from_us(entry.at_us).strftime("%F %T"), entry.by, *_shown(event.event, entry.at_us, sealer)
        )
    _console.print(table, markup=False)


def _shown(event: bytes | None, at_us: int, sealer: Sealer) -> tuple[str, str, str]:
    """Who, what and why, as far as it opens; of an event that is none of ours, its text."""
    if event is None:
        return "", "taken away", ""
    found = said(event)
    if found is None:
        return "", event.decode(errors="replace")[:_EVENT_CHARS], ""
    return found.who, found.what[:_EVENT_CHARS], reason_shown(sealer, found, at_us)


def _signer(settings: Settings) -> LogSigner:
    return LogSigner(provider_of(settings), settings.audit_origin)
