"""Replays and clones as an operator meets them: refused by the running platform, kill -9 of its doors too, and told."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import httpx
import pytest

from tests.running_platform import RunningPlatform, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]
HOSPITAL = "sz.replay"
AWAY = "127.0.0.2"


@pytest.fixture(scope="module")
def token(platform: RunningPlatform) -> str:
    return platform.register_monitor(HOSPITAL)


def said(number: int) -> dict[str, Any]:
    return {"metric": "heart_rate", "value": 60 + number % 30, "seq": number, "time": 1_795_420_800_000 + 1_000 * number}


def send(platform: RunningPlatform, token: str, numbers: range | list[int]) -> list[int]:
    """The door's answers; a door that is being restarted is waited for."""
    connection = platform.connection
    url = f"http://{connection.mqtt_host}:{connection.http_port}/v1/readings"
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=20) as door:
        return [door.post(url, json=said(number)).status_code for number in numbers]


def items(platform: RunningPlatform, path: str, **params: Any) -> list[dict[str, Any]]:
    with platform.http() as http:
        answer = http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["items"])


@pytest.mark.clause("5.4a", "9.4")
def test_a_capture_is_refused_after_kill_9_of_the_doors_too_and_told(platform: RunningPlatform, token: str) -> None:
    assert set(send(platform, token, range(1, 301))) == {200}
    assert send(platform, token, [5, 299]) == [422, 200]
    doors = platform.connection.process_pids["doors"]
    os.kill(doors, signal.SIGKILL)
    wait_until(lambda: platform.connection.process_pids["doors"] != doors, 60)
    wait_until(lambda: send(platform, token, [301]) == [200], 60)
    assert send(platform, token, [6, 7, 299, 302]) == [422, 422, 200, 200]
    shown = wait_until(lambda: items(platform, "/security/events", device=f"{HOSPITAL}/mon-1", kind="replay"), 20)
    assert {(row["device_id"], row["door"], row["address"]) for row in shown} == {("mon-1", "http", "127.0.0.1")}
    assert {row["reason"] for row in items(platform, "/rejects", hospital=HOSPITAL)} == {"replayed"}
    rows = wait_until(lambda: _whole(items(platform, "/readings", device=f"{HOSPITAL}/mon-1", limit=1000), 302), 30)
    assert len({row["time"] for row in rows}) == len(rows) == 302


def _whole(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]] | None:
    return rows if len(rows) >= count else None


@pytest.mark.clause("5.4a", "9.4")
def test_a_clone_is_an_alarm_that_names_both_addresses(platform: RunningPlatform, token: str) -> None:
    connection = platform.connection
    for address in ("127.0.0.1", AWAY) * 2:
        subprocess.run(
            ["mosquitto_pub", "-A", address, "-h", connection.mqtt_host, "-p", str(connection.mqtt_port), "-u", token,
             "-i", "mon-1", "-q", "1", "-t", "v1/devices/me/telemetry", "-m", '{"hr": 72}'],
            check=True, timeout=20,
        )  # fmt: skip
    rule = "security.identity-conflict"
    alarm = wait_until(lambda: [row for row in items(platform, "/alarms", hospital=HOSPITAL) if row["rule"] == rule], 20)[0]
    assert AWAY in alarm["text"]
    assert "127.0.0.1" in alarm["text"]
    (shown,) = items(platform, "/security/events", hospital=HOSPITAL, kind="identity-conflict")
    assert shown["address"] == AWAY
