"""Floods against one real platform, and what honest clients see meanwhile. Clause 9.1b."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx
import psutil

from tests.attacks.attacker import Target
from tests.attacks.floods import command
from tests.attacks.honest import Honest, Seen
from tests.running_platform import RunningPlatform

VILLAIN: Final = "sz.villain"
_MOST_GROWTH_BYTES: Final = 400 * 2**20


@dataclass(frozen=True)
class Outcome:
    """What one flood did."""

    name: str
    seen: Seen
    attackers: dict[str, int]
    grown: str  # the process that grew most
    growth_bytes: int

    def __str__(self) -> str:
        told = ", ".join(f"{what} {count}" for what, count in sorted(self.attackers.items()))
        return (
            f"{self.name:<20} p99 {self.seen.p99_s():6.3f} s of {len(self.seen.taken_s)}, failed {len(self.seen.failed)}, "
            f"alarm {self.seen.alarm_s:4.1f} s, {self.grown} +{max(0, self.growth_bytes) >> 20} MiB; {told}"
        )

    def problems(self, p99_s: float) -> list[str]:
        found = []
        if self.seen.p99_s() > p99_s:
            found.append(f"p99 of simple queries is {self.seen.p99_s():.2f} s: expected at most {p99_s:g}")
        if self.seen.failed:
            found.append(f"{len(self.seen.failed)} queries failed: {self.seen.failed[:3]}")
        if self.seen.alarm_s == float("inf"):
            found.append("the alarm did not come")
        if self.growth_bytes > _MOST_GROWTH_BYTES:
            found.append(f"{self.grown} grew by {self.growth_bytes >> 20} MiB")
        return found


class AttackBench:
    """One platform for all floods."""

    def __init__(self, platform: RunningPlatform, **size: Any) -> None:
        self._platform = platform
        self.honest = Honest(platform)
        self._size = size
        self._target: Target | None = None

    async def start(self, floods: int) -> None:
        await self.honest.start(floods + 1)
        device_token = await asyncio.to_thread(self._platform.register_monitor, VILLAIN)
        users_token = await asyncio.to_thread(self._token_of_a_service)
        connection = self._platform.connection
        api = httpx.URL(connection.api_url).port
        assert api is not None
        ca = self._platform.data_dir / "pki" / "ca.pem"
        self._target = Target(
            api, connection.http_port, connection.mqtt_port, str(ca) if ca.exists() else "", users_token, device_token,
            f"{VILLAIN}/mon-1", **self._size,
        )  # fmt: skip

    @property
    def target(self) -> Target:
        assert self._target is not None
        return self._target

    def _token_of_a_service(self) -> str:
        with self._platform.http() as http:
            answer = http.post("/tokens", json={"name": "villain", "role": "scenario-runner"})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    async def quiet(self, seconds: float) -> Outcome:
        """What honest clients see without any flood."""
        return Outcome("nobody attacks", await self.honest.watch(seconds), {}, "", 0)

    async def under(self, names: Sequence[str], seconds: float) -> Outcome:
        """Let those floods come at once."""
        told, outcome = await self._beside(", ".join(names), command(list(names), self.target, seconds + 1.0), seconds)
        return replace(outcome, attackers=json.loads(told or b"{}"))

    async def beside(self, name: str, attacker: list[str], seconds: float) -> Outcome:
        """The same with a program of others; what it says of the platform is not asked."""
        return (await self._beside(name, attacker, seconds))[1]

    async def _beside(self, name: str, attacker: list[str], seconds: float) -> tuple[bytes, Outcome]:
        before = self._memory()
        process = await asyncio.create_subprocess_exec(*attacker, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        await asyncio.sleep(1.0)  # until it is in full swing
        saying = asyncio.create_task(process.communicate())
        seen = await self.honest.watch(seconds)
        told, _ = await saying
        grown = {name: size - before.get(name, size) for name, size in self._memory().items()}
        most = max(grown, key=lambda name: grown[name])
        return told, Outcome(name, seen, {}, most, grown[most])

    def _memory(self) -> dict[str, int]:
        return {name: psutil.Process(pid).memory_info().rss for name, pid in self._platform.connection.process_pids.items()}
