"""`vitalgrid devices`: how devices prove who they are. Asks the running platform, with this machine's token."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer
from rich.table import Table

from cluster.command_options import DataDir, Token, target_of
from cluster.isolation_commands import ConfirmedBy, Device, isolate, isolated, path_of, release
from cluster.rest_calls import ask, ask_list, in_path
from cluster.run_view import wide_console
from domain.errors import InvalidInput

devices = typer.Typer(name="devices", help="Devices: how they prove who they are, cut off, taken back.", no_args_is_help=True)
devices.command("isolate")(isolate)
devices.command("release")(release)
devices.command("isolated")(isolated)
_console = wide_console()
_REASON: Final = "vitalgrid devices"
_COLUMN: Final = "device_id"
_AT_ONCE: Final = 500  # as many as the API takes


@devices.command("claim-code")
def claim_code(device: Device, token: Token = None, data_dir: DataDir = None) -> None:
    """Make a claim code, with which the device gets its first credential. Prints it, this once."""
    made = ask(target_of(token, data_dir), "POST", f"{path_of(device)}/claim-code", reason=_REASON)
    _console.print(f"{made['claim_code']}  until {made['until']}", highlight=False)


@devices.command("enrol")
def enrol(
    hospital: Annotated[str, typer.Argument(help="Such as sz.h012.")],
    devices_file: Annotated[Path, typer.Argument(help="CSV with a column device_id.")],
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Make a claim code for each device of a list. Prints CSV: device, code, or why there is none (exit code 1)."""
    ids = device_ids_in(devices_file)
    target, refused = target_of(token, data_dir), 0
    out = csv.writer(sys.stdout)
    out.writerow(("device_id", "claim_code", "error"))
    for start in range(0, len(ids), _AT_ONCE):
        path = f"/devices/claim-codes?hospital={quote(hospital)}"
        for row in ask(target, "POST", path, ids[start : start + _AT_ONCE], reason=_REASON)["reports"]:
            out.writerow((row["device_id"], row["claim_code"] or "", row["error"] or ""))
            refused += row["error"] is not None
    if refused:
        sys.stdout.flush()
        raise InvalidInput(f"{refused} of {len(ids)} devices got no claim code: the list says why")


def device_ids_in(file: Path) -> list[str]:
    """The column device_id of a CSV. Raises InvalidInput when it is none, has no such column, or no row."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened)
            columns = reader.fieldnames or []
            ids = [(row.get(_COLUMN) or "").strip() for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{file} is no CSV that can be read: {error}") from None
    if _COLUMN not in columns:
        raise InvalidInput(f"{file} has no column {_COLUMN}: its first line has {', '.join(map(repr, columns)) or 'nothing'}")
    if not ids:
        raise InvalidInput(f"{file} names no device: expected a row for each, under the column {_COLUMN}")
    return ids


@devices.command("credentials")
def credentials(device: Device, token: Token = None, data_dir: DataDir = None) -> None:
    """What a device has: who made it, when it ends."""
    table = Table("id", "state", "made", "by", "until", "last used")
    for row in ask_list(target_of(token, data_dir), f"{path_of(device)}/credentials", reason=_REASON):
        table.add_row(*(str(row[name] or "-") for name in ("id", "state", "made", "made_by", "until", "last_used")))
    _console.print(table)


@devices.command("revoke")
def revoke(
    device: Device,
    credential: Annotated[str, typer.Argument(help="Its id, as `credentials` shows it.")],
    confirmed_by: ConfirmedBy = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """End one credential; a connection that came with it is ended."""
    path = f"{path_of(device)}/credentials/{in_path(credential)}"
    path += "" if confirmed_by is None else f"?confirmed_by={quote(confirmed_by)}"
    answer: Any = ask(target_of(token, data_dir), "DELETE", path, reason=_REASON)
    assert not answer
    _console.print(f"{credential} of {device} is revoked", highlight=False)
