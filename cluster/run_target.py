"""The platform that `scenario` and `fleet` commands talk to: one that runs, one at an address, or one of our own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cluster.connection import Connection, admin_token_file
from cluster.rest_calls import ask
from domain import bus_rights
from domain.errors import InvalidInput, Unauthenticated, Unavailable, VitalgridError
from domain.loopback import is_loopback
from domain.principals import Role
from runtime.private_folder import make_private
from runtime.settings import Settings
from runtime.tls import Trust
from scenarios.rest import Rest
from scenarios.target import Target

_START_DEADLINE_S: Final = 120.0
_STOP_DEADLINE_S: Final = 60.0
_SCHEMES: Final = {"http": "mqtt", "https": "mqtts"}  # of the API, and of a door beside it


def settings_of(data_dir: Path | None) -> Settings:
    """The settings in force; `data_dir` wins over file and environment, for children too."""
    if data_dir is not None:
        os.environ["VITALGRID_DATA_DIR"] = str(data_dir)
    return Settings()


def local_target(settings: Settings, token: str | None = None) -> Target:
    """The platform running in the settings' data directory. Raises Unavailable, or Unauthenticated without a token."""
    connection = Connection.load(settings.data_dir)
    return Target(
        api_url=connection.api_url,
        token=token or token_of(settings.data_dir),
        mqtt_host=connection.mqtt_host,
        mqtt_port=connection.mqtt_port,
        region_id=settings.region_id,
        data_dir=settings.data_dir.resolve(),
        nats_url=connection.nats_url,
        bus_key=connection.bus_key(bus_rights.OBSERVER),
        api_trust=connection.api_trust,
        doors_trust=connection.doors_trust,
        pids=lambda: _pids(settings.data_dir),
    )


def remote_target(api_url: str, token: str | None, mqtt: str | None, region_id: str, ca: Path | None = None) -> Target:
    """A platform elsewhere: its ledger, hosts and processes are out of reach, so those figures are not measured.

    Its certificates are verified with the authority in `ca`, or those of this machine. The door speaks TLS as the API
    does, unless `mqtt` says otherwise. Plain is met on loopback alone: a token crosses no network in clear.
    """
    token = token or os.environ.get("VITALGRID_TOKEN")
    if not token:
        raise Unauthenticated("--against needs a token: give --token or set VITALGRID_TOKEN")
    parts = urlsplit(api_url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise InvalidInput(f"--against {api_url!r} is no address: expected https://host:port")
    scheme, separator, address = (mqtt or f"{parts.hostname}:1883").rpartition("://")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or (separator and scheme not in ("mqtt", "mqtts")):
        raise InvalidInput(f"--mqtt {mqtt!r} is no address: expected host:port, mqtt://host:port or mqtts://host:port")
    trust = Trust(str(ca.resolve()) if ca is not None else "")
    doors_speak_tls = (scheme or _SCHEMES[parts.scheme]) == "mqtts"
    plain = {"--against": (parts.scheme == "http", parts.hostname), "--mqtt": (not doors_speak_tls, host.strip("[]"))}
    if beyond := [f"{option} goes to {to}" for option, (is_plain, to) in plain.items() if is_plain and not is_loopback(to)]:
        raise InvalidInput(f"{' and '.join(beyond)} in clear, with a token: expected https:// and mqtts:// beyond this machine")
    return Target(
        api_url.rstrip("/"), token, host.strip("[]"), int(port), region_id,
        api_trust=trust if parts.scheme == "https" else None, doors_trust=trust if doors_speak_tls else None,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def some_platform(settings: Settings, token: str | None) -> AsyncIterator[tuple[Target, bool]]:
    """The platform that runs, or one started for the time being; also tells whether it was started here.

    Met with `token`, or VITALGRID_TOKEN, or else as a scenario runner.
    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            target, is_own = local_target(settings, token), False
        except Unavailable:
            target, is_own = await stack.enter_async_context(_own_platform(settings)), True
        if token is None and given_token() is None:
            target = await stack.enter_async_context(as_scenario_runner(target))
        yield target, is_own


@contextlib.asynccontextmanager
async def _own_platform(settings: Settings) -> AsyncIterator[Target]:
    make_private(settings.data_dir)
    log_dir = settings.data_dir / "log"
    log_dir.mkdir(parents=True, exist_ok=True)
    with (log_dir / "own-platform.out").open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cluster.cli", "up", "--data-dir", str(settings.data_dir),
            stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        yield await _until_ready(settings, process, log_dir / "own-platform.out")
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            try:
                async with asyncio.timeout(_STOP_DEADLINE_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _until_ready(settings: Settings, process: asyncio.subprocess.Process, out: Path) -> Target:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_DEADLINE_S):
            while process.returncode is None:
                with contextlib.suppress(Unavailable, Unauthenticated):
                    target = local_target(settings)
                    if target.api_url and target.mqtt_port:
                        async with Rest(target) as rest:
                            if await rest.is_ready():
                                return target
                await asyncio.sleep(0.3)
    last_words = await asyncio.to_thread(out.read_text, errors="replace")
    raise Unavailable(f"the platform did not start; its last words: {last_words[-600:]}")


def token_of(data_dir: Path) -> str:
    """The token of commands on this machine: VITALGRID_TOKEN, or its own. Raises Unauthenticated."""
    if given := given_token():
        return given
    try:
        return admin_token_file(data_dir).read_text(encoding="utf-8").strip()
    except OSError:
        expected = "give --token, set VITALGRID_TOKEN, or run as the user who started the platform"
        raise Unauthenticated(f"no token in {admin_token_file(data_dir)}: {expected}") from None


def given_token() -> str | None:
    """VITALGRID_TOKEN, if somebody set it."""
    return os.environ.get("VITALGRID_TOKEN") or None


@contextlib.asynccontextmanager
async def as_scenario_runner(target: Target) -> AsyncIterator[Target]:
    """`target` as a scenario runner meets it, with a token made for the time being by this machine's own.

    That one gives orders alone: it registers no fleet, admits nobody and reads nothing back.
    """
    name = f"scenario-runner-{secrets.token_hex(6)}"
    order = functools.partial(ask, target, reason="vitalgrid: a scenario or a replay is played")
    body = {"name": name, "role": Role.SCENARIO_RUNNER.value}
    made = await asyncio.to_thread(order, "POST", "/tokens", body)
    try:
        yield replace(target, token=made["token"])
    finally:
        with contextlib.suppress(VitalgridError):  # the platform may have gone, which is told elsewhere
            await asyncio.to_thread(order, "DELETE", f"/tokens/{name}")


def _pids(data_dir: Path) -> dict[str, int]:
    """Role -> process of the platform as it is now; empty once it is gone."""
    try:
        connection = Connection.load(data_dir)
    except Unavailable:
        return {}
    hosts = {f"host:{name}": pid for name, pid in connection.host_pids.items()}
    return {"supervisor": connection.pid, **connection.process_pids, **hosts}
