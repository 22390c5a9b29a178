"""`vitalgrid user`: who may sign in. Asks the running platform, with this machine's token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer
from rich.table import Table

from cluster.command_options import DataDir, Token, target_of
from cluster.rest_calls import ask, ask_list, ask_pages, in_path
from cluster.run_view import wide_console
from domain.principals import Relation, Role
from scenarios.target import Target

user = typer.Typer(name="user", help="Users of the running platform: who may sign in.", no_args_is_help=True)
_console = wide_console()
_REASON: Final = "vitalgrid user"

At = Annotated[
    str | None,
    typer.Option(
        "--at",
        help="Where: sz, sz:futian (a district), sz.h012, sz.h012/icu. Left out for roles of the region alone.",
    ),
]
Name = Annotated[str, typer.Argument(help="What the user signs in with, such as li.na.")]


@user.command("list")
def list_users(token: Token = None, data_dir: DataDir = None) -> None:
    """Each user: their state, their roles, whether they have a second factor, when they signed in last."""
    table = Table("user", "state", "roles", "second factor", "last sign-in")
    for row in _items(target_of(token, data_dir), "/users?limit=1000"):
        roles, factor = " ".join(row["roles"]) or "none", "yes" if row["second_factor"] else "no"
        table.add_row(row["name"], _state(row), roles, factor, row["last_login"] or "never")
    _console.print(table)


@user.command("add")
def add(
    name: Name,
    role: Annotated[Role | None, typer.Option(help="Without one the user may do nothing yet.")] = None,
    at: At = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Make a user. Prints the first password, this once: the user has to change it at the first sign-in."""
    grants = [] if role is None else [{"role": role.value, "place": at}]
    _tell(_ask(target_of(token, data_dir), "POST", "/users", {"name": name, "grants": grants}))


@user.command("grants")
def list_grants(name: Name, token: Token = None, data_dir: DataDir = None) -> None:
    """What a user was given, and what became of it."""
    _show_grants(ask_list(target_of(token, data_dir), f"{_path_of(name)}/grants", reason=_REASON))


@user.command("permissions")
def permissions(name: Name, token: Token = None, data_dir: DataDir = None) -> None:
    """What a user may do in effect, by which factors: by each grant, which action, up to which level, for which purposes."""
    shown = _ask(target_of(token, data_dir), "GET", f"{_path_of(name)}/permissions")
    _show_rights(f"signed in by {' and '.join(shown['factors'])}", shown["grants"])
    if (other := shown["otherwise"]) and other["grants"]:
        _show_rights(f"by {' and '.join(other['factors'])} instead, what differs", other["grants"])


@user.command("grant")
def grant(
    name: Name,
    role: Annotated[Role, typer.Argument(help="What the user is to be.")],
    at: At = None,
    relation: Annotated[Relation, typer.Option(help="care-team: to those patients alone whom the user treats.")] = Relation.ANY,
    until: Annotated[str | None, typer.Option(help="When it ends by itself, such as 2026-12-31T18:00:00+08:00.")] = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Give a user a role at a place and everywhere in it. Holds at once."""
    body = {"role": role.value, "place": at, "relation": relation.value, "until": until}
    _show_grants([_ask(target_of(token, data_dir), "POST", f"{_path_of(name)}/grants", body)])


@user.command("revoke")
def revoke(
    name: Name,
    number: Annotated[int, typer.Argument(help="Of the grant, as `vitalgrid user grants` says.")],
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Take back a grant. Holds at once."""
    _ask(target_of(token, data_dir), "DELETE", f"{_path_of(name)}/grants/{number}")
    _console.print(f"user {name}: grant {number} has ended", highlight=False)


@user.command("reset")
def reset(name: Name, token: Token = None, data_dir: DataDir = None) -> None:
    """Give a user a new first password, printed this once. Ends their session and any lock."""
    _tell(_order(name, "reset", token, data_dir))


@user.command("unlock")
def unlock(name: Name, token: Token = None, data_dir: DataDir = None) -> None:
    """Let a user who failed to sign in too often try again now."""
    _show(_order(name, "unlock", token, data_dir))


@user.command("disable")
def disable(name: Name, token: Token = None, data_dir: DataDir = None) -> None:
    """End a user's session and let them in no more. Their name stays theirs."""
    _show(_order(name, "disable", token, data_dir))


@user.command("enable")
def enable(name: Name, token: Token = None, data_dir: DataDir = None) -> None:
    """Let a disabled user in again."""
    _show(_order(name, "enable", token, data_dir))


@user.command("sessions")
def list_sessions(token: Token = None, data_dir: DataDir = None) -> None:
    """Who is signed in: since when, from where, by which proofs."""
    table = Table("user", "since", "last seen", "ends", "address", "factors")
    for row in _items(target_of(token, data_dir), "/sessions?limit=1000"):
        times = (row["since"], row["active"], row["ends"])
        table.add_row(row["user"], *times, row["address"], " ".join(row["factors"]))
    _console.print(table)


@user.command("sign-out")
def sign_out(name: Name, token: Token = None, data_dir: DataDir = None) -> None:
    """End a user's session, with its live streams. They may sign in again: `disable` keeps them out."""
    target = target_of(token, data_dir)
    _ask(target, "GET", f"/users/{in_path(name.strip().lower())}")  # refused for one who is unknown
    found = list(_items(target, f"/sessions?user={quote(name.strip().lower())}"))
    for row in found:
        _ask(target, "DELETE", f"/sessions/{row['id']}")
    _console.print(f"user {name}: {'signed out' if found else 'was not signed in'}", highlight=False)


@user.command("reset-factor")
def reset_factor(name: Name, token: Token = None, data_dir: DataDir = None) -> None:
    """Take away the second factor of a user who lost it, recovery codes too. Ends their session; be sure who asks."""
    _ask(target_of(token, data_dir), "POST", f"{_path_of(name)}/second-factor/reset")
    _console.print(f"user {name}: has no second factor now, and signs in with the password alone", highlight=False)


def _order(name: str, verb: str, token: str | None, data_dir: Path | None) -> dict[str, Any]:
    return _ask(target_of(token, data_dir), "POST", f"{_path_of(name)}/{verb}")


def _items(target: Target, path: str) -> Iterator[dict[str, Any]]:
    return ask_pages(target, path, reason=_REASON)


def _ask(target: Target, method: str, path: str, body: Any = None) -> dict[str, Any]:
    return ask(target, method, path, body, reason=_REASON)


def _tell(made: dict[str, Any]) -> None:
    _console.print(
        f"user {made['name']}, first password, shown this once: [bold]{made['first_password']}[/bold]", highlight=False
    )


def _show(row: dict[str, Any]) -> None:
    _console.print(f"user {row['name']}: {_state(row)}", highlight=False)


def _path_of(name: str) -> str:
    return f"/users/{in_path(name)}"


def _show_grants(rows: list[dict[str, Any]]) -> None:
    table = Table("grant", "role", "place", "relation", "given", "until", "ended")
    for row in rows:
        ends = (row["until"] or "-", row["ended"] or "-")
        table.add_row(str(row["id"]), row["role"], row["place"], row["relation"], row["given"], *ends)
    _console.print(table)


def _show_rights(title: str, grants: list[dict[str, Any]]) -> None:
    table = Table("role", "place", "action", "level", "of own patients", "purposes", title=title)
    for given in grants:
        for right in given["rights"]:
            levels = (str(right["level"] or "-"), str(right["level_of_own_patients"] or "-"))
            table.add_row(given["role"], given["place"], right["action"], *levels, " ".join(right["purposes"]))
    _console.print(table)


def _state(row: dict[str, Any]) -> str:
    if row["status"] != "active":
        return str(row["status"])
    if row["locked_until"]:
        return f"locked until {row['locked_until']}"
    return "has to change the password" if row["must_change"] else "active"
