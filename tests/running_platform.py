"""A whole platform for tests: `vitalgrid up` as its user starts it, in a process of its own, on free ports."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from cluster.connection import Connection, admin_token_file
from domain.errors import Unavailable
from domain.principals import Role

START_DEADLINE_S = 150.0
STOP_DEADLINE_S = 60.0
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl  # looked up here: nothing may be loaded between fork and exec


@dataclass
class RunningPlatform:
    """`connection` is read anew at each use, because processes come and go."""

    data_dir: Path
    process: subprocess.Popen[bytes]
    environment: dict[str, str] = field(default_factory=dict)
    _tokens: dict[Role, str] = field(default_factory=dict)

    @property
    def connection(self) -> Connection:
        return Connection.load(self.data_dir)

    @property
    def token(self) -> str:
        return admin_token_file(self.data_dir).read_text()

    def token_as(self, role: Role) -> str:
        """A token of `role`, made at the first use; in profile `dev` this machine's own, which may everything."""
        if self.environment.get("VITALGRID_SECURITY__PROFILE") == "dev":
            return self.token
        if role not in self._tokens:
            with self.http() as http:
                answer = http.post("/tokens", json={"name": f"{role} {secrets.token_hex(4)}", "role": role, "place": "sz"})
            assert answer.status_code == 201, answer.text
            self._tokens[role] = answer.json()["token"]
        return self._tokens[role]

    def http(self, role: Role | None = None, **options: Any) -> httpx.Client:
        """A client of the REST API, with this machine's token or as `token_as`."""
        token = self.token if role is None else self.token_as(role)
        headers = {"Authorization": f"Bearer {token}", "X-Reason": "test"} | options.pop("headers", {})
        connection = self.connection
        if connection.api_trust is not None:
            options.setdefault("verify", connection.api_trust.context())
        return httpx.Client(base_url=f"{connection.api_url}/api/v1", headers=headers, timeout=30, **options)

    def register_monitor(self, hospital_id: str) -> str:
        """A new hospital with `mon-1` at a bed, registered as an operator would; the monitor's token."""
        device = {
            "hospital_id": hospital_id, "device_id": "mon-1", "model": "monitor", "ward_id": "w1", "bed_id": "b1",
            "with_token": True,
        }  # fmt: skip
        with self.http() as http:
            made = http.post("/hospitals", json={"id": hospital_id, "name": "End to end", "tier": "primary", "beds": 8})
            assert made.status_code == 201, made.text
        with self.http(Role.SYSTEM_ADMINISTRATOR) as http:
            made = http.post(f"/hospitals/{hospital_id}/wards", json={"id": "w1", "name": "Ward 1"})
            assert made.status_code == 201, made.text
        with self.http(Role.BIOMEDICAL_ENGINEER) as http:
            answer = http.post("/devices", json=device)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def log(self, name: str) -> str:
        return (self.data_dir / "log" / name).read_text(errors="replace")

    def stop(self) -> int:
        """Ctrl-C, as a person would; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_DEADLINE_S)

    def kill(self) -> None:
        """kill -9, with all that it has started so far."""
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            for process in (own, *own.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait(STOP_DEADLINE_S)


def start_platform(data_dir: Path, also: dict[str, str] | None = None, **settings: str) -> RunningPlatform:
    """Start `vitalgrid up` with `settings` as VITALGRID_* variables, and variables `also`; return once it is ready."""
    environment = {
        "VITALGRID_API__PORT": "0", "VITALGRID_DOORS__MQTT_PORT": "0", "VITALGRID_DOORS__HTTP_PORT": "0",
        "VITALGRID_SECURITY__PROFILE": "dev", "VITALGRID_SHARDS": "4",
        "VITALGRID_HOSTS__SNAPSHOT_INTERVAL_S": "2", "VITALGRID_LAKE__FLUSH_INTERVAL_S": "1",
    } | {f"VITALGRID_{name}": value for name, value in settings.items()} | (also or {})  # fmt: skip
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (data_dir / "up.out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", "up", "--data-dir", str(data_dir)],
            env={**os.environ, **environment}, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
            start_new_session=True, preexec_fn=_end_with_us,  # noqa: PLW1509 (one system call, nothing that locks)
        )  # fmt: skip
    platform = RunningPlatform(data_dir, process, environment)
    try:
        wait_until(lambda: _is_ready(platform), START_DEADLINE_S, lambda: (data_dir / "up.out").read_text()[-3000:])
    except BaseException:
        platform.kill()  # one that is late must not live on beside the next
        raise
    return platform


def _end_with_us() -> None:
    """In the child: Ctrl-C when whoever started it is gone, by `timeout` for example. It would spoil all later figures."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _is_ready(platform: RunningPlatform) -> bool:
    if platform.process.poll() is not None:
        said = (platform.data_dir / "up.out").read_text()[-3000:]
        raise AssertionError(f"the platform ended with {platform.process.returncode}: {said}")
    return b"ready after" in (platform.data_dir / "up.out").read_bytes()


def wait_until(condition: Callable[[], Any], deadline_s: float, explain: Callable[[], object] = lambda: "") -> Any:
    """The first true value of `condition`; fails with `explain()` after `deadline_s`. For tests without an event loop."""
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            value = condition()
        except (Unavailable, httpx.TransportError):
            value = None
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_s:g} s; {explain()}")
        asyncio.run(asyncio.sleep(0.05))
