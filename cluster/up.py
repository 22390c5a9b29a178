"""`vitalgrid up` and `vitalgrid demo`: the platform in the foreground, with words for the person in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator

from rich.console import Console

from cluster.connection import Connection, admin_token_file, first_password_file
from cluster.first_start import FirstCredentials, token_role, user_role
from cluster.pki import in_url
from cluster.platform import Platform
from domain.alarms import INTENDED_USE
from runtime.settings import Settings
from runtime.sql.users import FIRST_USER


async def run_platform(settings: Settings, console: Console) -> None:
    """Start, tell where everything is, wait for Ctrl-C or SIGTERM, stop cleanly."""
    asked = asyncio.Event()
    async with _running(settings, console, asked):
        await asked.wait()


async def run_demo(settings: Settings, console: Console, scenario: str, assign: list[str], *, stay: bool) -> int:
    """Start, play `scenario` in a process of its own, then stay up. Returns the scenario's exit code."""
    asked = asyncio.Event()
    async with _running(settings, console, asked) as platform:
        code = await _play(settings, scenario, assign, asked)
        if stay and not asked.is_set():
            console.print(f"\nThe platform stays up at [bold]{_api(platform)}[/bold] until Ctrl-C.")
            await asked.wait()
        return code


async def _play(settings: Settings, scenario: str, assign: list[str], asked: asyncio.Event) -> int:
    options = [part for assignment in assign for part in ("--set", assignment)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cluster.cli", "scenario", "run", scenario, *options,
        "--data-dir", str(settings.data_dir), stderr=sys.stderr, start_new_session=True,  # so that it can be given precedence
    )  # fmt: skip
    ended = asyncio.create_task(process.wait())
    stop = asyncio.create_task(asked.wait())
    await asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not ended.done():
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
    return await ended


@contextlib.asynccontextmanager
async def _running(settings: Settings, console: Console, asked: asyncio.Event) -> AsyncIterator[Platform]:
    """Started, introduced, and stopped whatever happens: a terminal that is gone raises at a print."""
    began = time.monotonic()
    _listen_for_stop(asked)
    platform = Platform(settings, say=lambda text: console.print(f"  {text}", highlight=False))
    console.print("[bold]Vitalgrid[/bold] is starting")
    connection = await platform.start()
    try:
        _listen_for_stop(asked)  # again: Ray puts handlers of its own in place when it starts
        console.print(f"[bold green]ready[/bold green] after {time.monotonic() - began:.1f} s", highlight=False)
        _introduce(platform, connection, settings, console)
        yield platform
        console.print("stopping: doors, API, hosts (commit and snapshot), Ray, bus", highlight=False)
    finally:
        await platform.stop()
    console.print("stopped", highlight=False)


def _introduce(platform: Platform, connection: Connection, settings: Settings, console: Console) -> None:
    tls = " (TLS)" if connection.doors_trust else ""
    console.print(f"  API        {connection.api_url}/api/v1", highlight=False)
    console.print(f"  sign in    {connection.api_url}/login", highlight=False)
    console.print(f"  MQTT door  {connection.mqtt_host}:{connection.mqtt_port}{tls}", highlight=False)
    console.print(f"  HTTP door  {_http_door(connection)}", highlight=False)
    for file in {trust.file for trust in (connection.api_trust, connection.doors_trust) if trust and not trust.is_pin}:
        words = f"  clients    trust {file}   (curl --cacert, mosquitto_pub --cafile)"
        console.print(words, highlight=False, soft_wrap=True)  # a path is there to be copied
    console.print(f"  logs       {settings.data_dir / 'log'}", highlight=False)
    _tell_first(platform.first, settings, console)
    console.print(f"  {INTENDED_USE}", style="yellow", highlight=False)


def _tell_first(first: FirstCredentials, settings: Settings, console: Console) -> None:
    who = f"[bold]{FIRST_USER}[/bold] ({user_role(settings)})"
    if not console.is_terminal:  # what is printed here is kept, in a journal or a file, for whoever reads that
        if first.password is not None:
            words = f"  sign in as {who}: the first password is in {first_password_file(settings.data_dir)}"
            console.print(words, highlight=False, soft_wrap=True)
        first = FirstCredentials()
    if first.password is not None:
        console.print(f"  sign in as {who}, first password: [bold]{first.password}[/bold]", highlight=False)
        console.print(f"  (until it is changed it is in {first_password_file(settings.data_dir)} too)", highlight=False)
    if first.token is not None:
        words = f"  token of this machine's commands ({token_role(settings)}), shown this once: [bold]{first.token}[/bold]"
        console.print(words, highlight=False)
    console.print(f"  (this machine's commands read it from {admin_token_file(settings.data_dir)})", highlight=False)


def _http_door(connection: Connection) -> str:
    scheme = "https" if connection.doors_trust else "http"
    return f"{scheme}://{in_url(connection.mqtt_host)}:{connection.http_port}"


def _api(platform: Platform) -> str:
    return platform.connection.api_url if platform.connection else ""


def _listen_for_stop(asked: asyncio.Event) -> None:
    """Let Ctrl-C and SIGTERM set `asked`; a second Ctrl-C while stopping changes nothing."""
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
