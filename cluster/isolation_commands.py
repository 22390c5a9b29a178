"""`vitalgrid devices`: cut a device off, take it back, see which are. Asks the running platform, with this machine's token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from api.device_names import split_device
from cluster.rest_calls import ask
from cluster.run_target import local_target, settings_of
from cluster.run_view import wide_console
from scenarios.target import Target

_console = wide_console()

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Data directory of the platform (default: var).")]
Token = Annotated[str | None, typer.Option("--token", help="API token (default: this machine's own).")]
Device = Annotated[str, typer.Argument(help="The device, such as sz.h012/mon-7.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept.")]


def isolate(
    device: Device,
    reason: Reason,
    confirmed_by: Annotated[
        str | None, typer.Option(help="User name of the doctor or nurse who knows, while a patient is on it.")
    ] = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="A credential was stolen: all of them end for good.")] = False,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Refuse a device's credentials, end its connections, and keep apart what still comes of it."""
    body = {"confirmed_by": confirmed_by, "revoke_credentials": revoke}
    row = ask(_target(token, data_dir), "POST", _path(device), body, reason=reason)
    on = f"; patients on it: {row['patients']}, known to {row['confirmed_by']}" if row["patients"] else ""
    _console.print(f"{device}: isolated at {row['isolated']}{on}", highlight=False)


def release(device: Device, reason: Reason, token: Token = None, data_dir: DataDir = None) -> None:
    """Undo an isolation."""
    row = ask(_target(token, data_dir), "POST", f"{_path(device)}/release", reason=reason)
    more = ": it needs new credentials" if row["credentials_revoked"] else ""
    _console.print(f"{device}: released at {row['released']}{more}", highlight=False)


def isolated(
    hospital: Annotated[str | None, typer.Option(help="Only of this hospital.")] = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """The devices that are cut off now."""
    table = Table("device", "ward", "bed", "since", "by", "patients", "who knows", "reason")
    for row in _rows(_target(token, data_dir), hospital):
        name = f"{row['hospital_id']}/{row['device_id']}"
        table.add_row(
            name, row["ward_id"], row["bed_id"], row["isolated"], row["isolated_by"], str(row["patients"]),
            row["confirmed_by"], row["reason"],
        )  # fmt: skip
    _console.print(table)


def _rows(target: Target, hospital: str | None) -> list[dict[str, Any]]:
    path: str | None = "/isolations?limit=1000" + (f"&hospital={hospital}" if hospital else "")
    rows: list[dict[str, Any]] = []
    while path is not None:
        page = ask(target, "GET", path, reason="vitalgrid devices")
        rows += page["items"]
        path = None if page["next"] is None else page["next"].removeprefix("/api/v1")
    return rows


def _path(device: str) -> str:
    return "/devices/{}/{}/isolation".format(*split_device(device))


def _target(token: str | None, data_dir: Path | None) -> Target:
    return local_target(settings_of(data_dir), token)
