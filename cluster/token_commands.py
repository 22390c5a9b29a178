"""`vitalgrid token`: what programs come with. Asks the running platform, with this machine's token."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from cluster.command_options import DataDir, Token, target_of
from cluster.rest_calls import ask, ask_pages, in_path
from cluster.run_view import wide_console
from domain.principals import Role
from scenarios.target import Target

token_app = typer.Typer(name="token", help="Tokens of programs, each with a role at a place.", no_args_is_help=True)
_console = wide_console()
_aside = Console(stderr=True, highlight=False)
_REASON: Final = "vitalgrid token"

Name = Annotated[str, typer.Argument(help="Of the program, such as ward-display-3; for life, and never used again.")]
At = Annotated[
    str | None,
    typer.Option(
        "--at", help="Where: sz, sz:futian (a district), sz.h012, sz.h012/icu. Left out for roles of the region alone."
    ),
]


@token_app.command("add")
def add(
    name: Name,
    role: Annotated[Role, typer.Option(help="What the program is to be.")],
    at: At = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Make a token and print it, this once. Nothing else is on standard output, so that a shell can take it."""
    made = _ask(target_of(token, data_dir), "POST", "/tokens", {"name": name, "role": role.value, "place": at})
    _aside.print(f"token {made['name']}: {made['role']} at {made['place']}, shown this once")
    typer.echo(made["token"])


@token_app.command("list")
def list_tokens(token: Token = None, data_dir: DataDir = None) -> None:
    """Each token: its role and place, when it was made, last used and revoked; never what it is."""
    table = Table("token", "role", "place", "made", "last used", "revoked")
    for row in ask_pages(target_of(token, data_dir), "/tokens?limit=1000", reason=_REASON):
        used, revoked = row["last_used"] or "never", row["revoked"] or "-"
        table.add_row(row["name"], row["role"], row["place"], row["created"], used, revoked)
    _console.print(table)


@token_app.command("revoke")
def revoke(name: Name, token: Token = None, data_dir: DataDir = None) -> None:
    """Let a token open nothing any more. Holds within seconds."""
    _ask(target_of(token, data_dir), "DELETE", f"/tokens/{in_path(name)}")
    _console.print(f"token {name}: revoked", highlight=False)


def _ask(target: Target, method: str, path: str, body: Any = None) -> dict[str, Any]:
    return ask(target, method, path, body, reason=_REASON)
