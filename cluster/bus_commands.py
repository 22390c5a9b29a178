"""`vitalgrid bus`: certificates of hospitals' programs for the bus. Asks the running platform, with this machine's token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from cluster.command_options import DataDir, Token, target_of
from cluster.rest_calls import ask, ask_list, in_path
from cluster.run_view import wide_console
from domain.errors import InvalidInput

bus = typer.Typer(name="bus", help="Programs of hospitals on the bus, where they hear alarms.", no_args_is_help=True)
_console = wide_console()
_aside = Console(stderr=True, highlight=False)
_REASON: Final = "vitalgrid bus"

Name = Annotated[str, typer.Argument(help="Of the program's token (vitalgrid token add), at a hospital or a ward.")]


@bus.command("certify")
def certify(
    name: Name,
    request: Annotated[Path, typer.Option(help="Certification request (PKCS #10, PEM), as `openssl req -new` makes it.")],
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Give a program a certificate, and print it with its authority. Its private key stays where it was made."""
    try:
        asked = request.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{request} cannot be read as a certification request in PEM: {error}") from None
    made = ask(target_of(token, data_dir), "POST", _path(name), {"request": asked}, reason=_REASON)
    _aside.print(f"certificate {made['id']} of {name}, {made['hospital_id']}: until {made['until']}")
    _aside.print(f"asks on {made['asks']}, hears on {made['hears']}, is answered on {made['inbox']}.>")
    typer.echo(made["certificate"])


@bus.command("list")
def list_certificates(name: Name, token: Token = None, data_dir: DataDir = None) -> None:
    """Every certificate that a program ever had."""
    table = Table("id", "hospital", "state", "made", "by", "until", "revoked", "fingerprint")
    for row in ask_list(target_of(token, data_dir), _path(name), reason=_REASON):
        table.add_row(
            str(row["id"]), row["hospital_id"], row["state"], row["made"], row["made_by"], row["until"] or "-",
            row["revoked"] or "-", row["fingerprint"] or "-",
        )  # fmt: skip
    _console.print(table)


@bus.command("revoke")
def revoke(
    name: Name,
    certificate: Annotated[int, typer.Argument(help="Its id.")],
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Let a certificate open nothing any more, and end its connections. Holds within seconds."""
    said = ask(target_of(token, data_dir), "DELETE", f"{_path(name)}/{certificate}", reason=_REASON)
    _console.print(f"certificate {certificate} of {name}: {said.get('detail', 'revoked')}", highlight=False)


def _path(name: str) -> str:
    return f"/tokens/{in_path(name)}/bus-certificates"
