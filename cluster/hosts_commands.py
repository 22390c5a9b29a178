"""`vitalgrid hosts`: who holds what on the running platform; one host more, one fewer, one for a hospital alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from cluster.command_options import DataDir, Token, target_of
from cluster.rest_calls import ask, in_path
from cluster.run_view import wide_console
from domain.errors import Unavailable
from scenarios.target import Target

hosts = typer.Typer(
    name="hosts", help="Hosts of the running platform come and go, and hospitals among them.", no_args_is_help=True
)
_console = wide_console()
_LOOK_S: Final = 0.3

Wait = Annotated[float, typer.Option("--wait", help="Longest wait, in seconds, until it is carried out; 0: none.")]
Name = Annotated[str, typer.Argument(help="The host, such as host-2.")]
Hospital = Annotated[str, typer.Argument(help="The hospital, such as sz.h012.")]


@hosts.command("list")
def list_hosts(token: Token = None, data_dir: DataDir = None) -> None:
    """Each host: its state, its shards, how many devices, what waits for it."""
    _show(_order(target_of(token, data_dir), "GET", ""))


@hosts.command("add")
def add(wait: Wait = 120.0, token: Token = None, data_dir: DataDir = None) -> None:
    """Start one host more; shards move to it."""
    _carry_out(target_of(token, data_dir), ("POST", ""), _is_calm, wait)


@hosts.command("drain")
def drain(name: Name, wait: Wait = 120.0, token: Token = None, data_dir: DataDir = None) -> None:
    """Let a host give all its shards to others; it stays, without any."""
    _carry_out(target_of(token, data_dir), ("POST", f"/{in_path(name)}/drain"), lambda view: _is_empty(view, name), wait)


@hosts.command("resume")
def resume(name: Name, wait: Wait = 120.0, token: Token = None, data_dir: DataDir = None) -> None:
    """Give a drained host shards again."""
    _carry_out(target_of(token, data_dir), ("POST", f"/{in_path(name)}/resume"), _is_calm, wait)


@hosts.command("remove")
def remove(name: Name, wait: Wait = 120.0, token: Token = None, data_dir: DataDir = None) -> None:
    """Drain a host, then end it; one fewer is kept from then on."""
    gone: Callable[[dict[str, Any]], bool] = lambda view: all(host["name"] != name for host in view["hosts"])  # noqa: E731
    _carry_out(target_of(token, data_dir), ("DELETE", f"/{in_path(name)}"), gone, wait)


@hosts.command("hand-over")
def hand_over(
    hospital: Hospital,
    shard: Annotated[int, typer.Argument(help="The shard it is to be in.")],
    wait: Wait = 60.0,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Hand a hospital over to another shard, while it sends; returns when it is there."""
    target, path, deadline_s = target_of(token, data_dir), f"/hospitals/{in_path(hospital)}/hand-over", time.monotonic() + wait
    state = _ask(target, "POST", path, {"shard": shard})
    while state["state"] == "begun" and time.monotonic() < deadline_s:
        time.sleep(_LOOK_S)
        state = _ask(target, "GET", path)
    words = f"hospital {hospital}: from shard {state['from_shard']} to shard {state['to_shard']}, {state['state']}"
    _console.print(words, highlight=False)


@hosts.command("dedicate")
def dedicate(hospital: Hospital, wait: Wait = 120.0, token: Token = None, data_dir: DataDir = None) -> None:
    """Give a hospital a shard and a host of its own, while it sends; one host more is kept for it."""
    _place(target_of(token, data_dir), hospital, "dedicated", wait)


@hosts.command("share")
def share(hospital: Hospital, wait: Wait = 120.0, token: Token = None, data_dir: DataDir = None) -> None:
    """Put a hospital that has a host of its own among the others again; its host is ended."""
    _place(target_of(token, data_dir), hospital, "shared", wait)


def _place(target: Target, hospital: str, placement: str, wait_s: float) -> None:
    """Order a placement and wait until it is so. Raises Unavailable when that takes longer than `wait_s`."""
    path, deadline_s = f"/hospitals/{in_path(hospital)}/placement", time.monotonic() + wait_s
    state = _ask(target, "PUT", path, {"placement": placement})
    while wait_s and not _is_placed(state):
        if time.monotonic() > deadline_s:
            raise Unavailable(
                f"hospital {hospital} is not {placement} within {wait_s:g} s: the order stands, give it again to wait on"
            )
        time.sleep(_LOOK_S)
        state = _ask(target, "GET", path)
    where = f"shard {state['shard']}" + ("" if state["to_shard"] is None else f" and on its way to {state['to_shard']}")
    _console.print(f"hospital {hospital}: {state['placement']}, in {where}, on {state['host'] or 'no host'}", highlight=False)


def _is_placed(state: dict[str, Any]) -> bool:
    """Whether a hospital is where it is to be, and somebody holds it: alone, if it is dedicated."""
    is_there = state["to_shard"] is None and state["host"] is not None
    return is_there and (state["is_alone"] or state["placement"] == "shared")


def _carry_out(target: Target, order: tuple[str, str], is_done: Callable[[dict[str, Any]], bool], wait_s: float) -> None:
    """Give an order and wait until it is carried out. Raises Unavailable when that takes longer than `wait_s`."""
    view, deadline_s = _order(target, *order), time.monotonic() + wait_s
    while wait_s and not is_done(view):
        if time.monotonic() > deadline_s:
            _show(view)
            raise Unavailable(f"not carried out within {wait_s:g} s: the order stands, look again with `vitalgrid hosts list`")
        time.sleep(_LOOK_S)
        view = _order(target, "GET", "")
    _show(view)


def _is_calm(view: dict[str, Any]) -> bool:
    """Nothing moves, and each host that works has something, as far as there are shards enough."""
    shards_of = [host["shards"] for host in view["hosts"] if host["state"] == "working"]
    return not view["moving"] and (all(shards_of) or sum(map(len, shards_of)) < len(shards_of))


def _is_empty(view: dict[str, Any], name: str) -> bool:
    return not view["moving"] and all(not host["shards"] for host in view["hosts"] if host["name"] == name)


def _order(target: Target, method: str, path: str) -> dict[str, Any]:
    return _ask(target, method, f"/hosts{path}")


def _ask(target: Target, method: str, path: str, body: Any = None) -> dict[str, Any]:
    return ask(target, method, path, body, reason="vitalgrid hosts")


def _show(view: dict[str, Any]) -> None:
    table = Table("host", "pid", "state", "shards", "devices", "lag", "silent s")
    dedicated = set(view["dedicated"])
    for host in sorted(view["hosts"], key=lambda host: int(host["name"].rpartition("-")[2])):
        table.add_row(
            host["name"], str(host["pid"]), host["state"], _shards(host["shards"], dedicated),
            f"{host['devices']:,}", f"{host['lag']:,}", f"{host['silent_s']:.1f}",
        )  # fmt: skip
    _console.print(table)
    moving = f", moving: shards {' '.join(map(str, view['moving']))}" if view["moving"] else ""
    alone = f", {len(dedicated)} of them dedicated" if dedicated else ""
    _console.print(f"{view['wanted']} hosts wanted{alone}{moving}", highlight=False)


def _shards(shards: list[int], dedicated: set[int]) -> str:
    """`3 5 (dedicated) 7`, or `none`."""
    return " ".join(f"{shard} (dedicated)" if shard in dedicated else str(shard) for shard in shards) or "none"
