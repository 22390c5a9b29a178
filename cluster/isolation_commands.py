"""`vitalgrid devices`: cut a device off, take it back, see which are. Asks the running platform, with this machine's token."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote

import typer
from rich.table import Table

from api.device_names import split_device
from cluster.command_options import DataDir, Token, target_of
from cluster.rest_calls import ask, ask_pages
from cluster.run_view import wide_console

_console = wide_console()
_REASON: Final = "vitalgrid devices"

Device = Annotated[str, typer.Argument(help="The device, such as sz.h012/mon-7.")]
ConfirmedBy = Annotated[str | None, typer.Option(help="User name of the doctor or nurse who knows, while a patient is on it.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept.")]


def isolate(
    device: Device,
    reason: Reason,
    confirmed_by: ConfirmedBy = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="A credential was stolen: all of them end for good.")] = False,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Refuse a device's credentials, end its connections, and keep apart what still comes of it."""
    body = {"confirmed_by": confirmed_by, "revoke_credentials": revoke}
    row = ask(target_of(token, data_dir), "POST", f"{path_of(device)}/isolation", body, reason=reason)
    on = f"; patients on it: {row['patients']}, known to {row['confirmed_by']}" if row["patients"] else ""
    _console.print(f"{device}: isolated at {row['isolated']}{on}", highlight=False)


def release(device: Device, reason: Reason, token: Token = None, data_dir: DataDir = None) -> None:
    """Undo an isolation."""
    row = ask(target_of(token, data_dir), "POST", f"{path_of(device)}/isolation/release", reason=reason)
    more = ": it needs new credentials" if row["credentials_revoked"] else ""
    _console.print(f"{device}: released at {row['released']}{more}", highlight=False)


def isolated(
    hospital: Annotated[str | None, typer.Option(help="Only of this hospital.")] = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """The devices that are cut off now."""
    table = Table("device", "ward", "bed", "since", "by", "patients", "who knows", "reason")
    path = "/isolations?limit=1000" + (f"&hospital={quote(hospital)}" if hospital else "")
    for row in ask_pages(target_of(token, data_dir), path, reason=_REASON):
        name = f"{row['hospital_id']}/{row['device_id']}"
        table.add_row(
            name, row["ward_id"], row["bed_id"], row["isolated"], row["isolated_by"], str(row["patients"]),
            row["confirmed_by"], row["reason"],
        )  # fmt: skip
    _console.print(table)


def path_of(device: str) -> str:
    """Where the API has it. Raises InvalidInput for what names no device."""
    return "/devices/{}/{}".format(*split_device(device))
