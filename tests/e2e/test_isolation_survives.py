"""A device stays isolated whatever of the platform is killed, and comes back whole when it is released."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.running_platform import RunningPlatform, start_platform, wait_until

pytestmark = [
    pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(300), pytest.mark.clause("8.4d"), pytest.mark.clause("9.4"),
    pytest.mark.clause("9.3d"),
]  # fmt: skip
HOSPITAL = "sz.cut"
DEVICE = f"{HOSPITAL}/mon-1"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    running = start_platform(tmp_path_factory.mktemp("cut"))
    yield running
    if running.process.poll() is None:
        running.stop()


def send(platform: RunningPlatform, token: str, value: float) -> int:
    """The status that the HTTP door answers; 0 while it does not."""
    url = f"http://127.0.0.1:{platform.connection.http_port}/v1/readings"
    try:
        return httpx.post(
            url, json={"metric": "heart_rate", "value": value}, headers={"Authorization": f"Bearer {token}"}, timeout=20
        ).status_code
    except httpx.TransportError:
        return 0


def order(platform: RunningPlatform, path: str) -> None:
    with platform.http() as http:
        answer = http.post(f"/devices/{DEVICE}/isolation{path}", json={})
    assert answer.is_success, answer.text


def items(platform: RunningPlatform, path: str, **params: Any) -> list[dict[str, Any]]:
    with platform.http() as http:
        answer = http.get(path, params=params)
    return list(answer.json()["items"]) if answer.is_success else []


def open_alarms(platform: RunningPlatform) -> list[dict[str, Any]]:
    alarms = items(platform, "/alarms", hospital=HOSPITAL)
    return [one for one in alarms if one["rule"] == "technical.device-isolated" and one["state"] != "closed"]


def kill(platform: RunningPlatform, name: str) -> None:
    """kill -9, and wait until another one is in its place."""
    pids = {**platform.connection.process_pids, **platform.connection.host_pids}
    os.kill(pids[name], signal.SIGKILL)

    def is_replaced() -> bool:
        now = {**platform.connection.process_pids, **platform.connection.host_pids}
        return pids[name] not in now.values() and len(now) >= len(pids)

    wait_until(is_replaced, 90, lambda: platform.log("up.log")[-2000:])


def test_an_isolated_device_stays_so_when_api_doors_and_hosts_are_killed(platform: RunningPlatform) -> None:
    token = platform.register_monitor(HOSPITAL)
    assert wait_until(lambda: send(platform, token, 71) == 200, 20)
    wait_until(lambda: items(platform, "/readings", device=DEVICE), 20)
    order(platform, "")
    kill(platform, "api")  # right after its answer
    wait_until(lambda: open_alarms(platform), 60)
    for name in ("doors", next(iter(platform.connection.host_pids))):
        kill(platform, name)
        wait_until(lambda: send(platform, token, 199) == 401, 60)
        assert wait_until(lambda: open_alarms(platform), 60)
    assert [row["value"] for row in items(platform, "/readings", device=DEVICE)] == [71.0]
    (row,) = items(platform, "/isolations", hospital=HOSPITAL)
    assert row["released"] is None
    order(platform, "/release")
    wait_until(lambda: send(platform, token, 72) == 200, 20)
    wait_until(lambda: not open_alarms(platform), 30)
    wait_until(lambda: 72.0 in [row["value"] for row in items(platform, "/readings", device=DEVICE)], 60)
