"""A device stays isolated whatever of the platform is killed, and comes back whole when it is released."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from domain.frames import encode_frame
from domain.metrics import metric_of
from domain.readings import ReadingBatch
from runtime.clock import SystemClock
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


def order(platform: RunningPlatform, path: str, device: str = DEVICE) -> None:
    with platform.http() as http:
        answer = http.post(f"/devices/{device}/isolation{path}", json={})
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


def test_what_a_gateway_carries_of_it_is_cut_off_once_the_api_that_died_after_the_order_is_back(
    platform: RunningPlatform,
) -> None:
    """The order waits in the outbox meanwhile; the delay is that of the API's return, and what came until then is stored."""
    hospital = f"{HOSPITAL}2"
    platform.register_monitor(hospital)
    both = ({"device_id": "gw", "model": "gateway", "with_token": True}, {"device_id": "mon-2", "gateway_id": "gw"})
    with platform.http() as http:
        made = [http.post("/devices", json={"hospital_id": hospital, "model": "monitor"} | more).json() for more in both]
    (gateway, carried), token = (one["device"]["handle"] for one in made), made[0]["token"]
    numbers = itertools.count(1)

    def bring() -> bool:
        """Whether the door takes another reading of the carried device."""
        batch = ReadingBatch.of(
            handle=carried, metric=metric_of("heart_rate").id, time_us=SystemClock().now_us(), value=70.0, source=gateway,
            sequence=next(numbers),
        )  # fmt: skip
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/vnd.vitalgrid.frame"}
        url = f"http://127.0.0.1:{platform.connection.http_port}/v1/frames"
        frame = encode_frame(batch, source=gateway, sequence=1, arrival_us=SystemClock().now_us())
        return httpx.post(url, content=frame, headers=headers, timeout=20).is_success

    def refused() -> list[dict[str, Any]]:
        assert bring()
        return items(platform, "/rejects", reason="isolated", hospital=hospital)

    wait_until(lambda: bring() and items(platform, "/readings", device=f"{hospital}/mon-2"), 30)
    order(platform, "", f"{hospital}/mon-2")
    kill(platform, "api")
    wait_until(refused, 60)


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
