"""A platform that is stopped and started again: everything is there. Then it has lost its snapshots, after its stream forgot
who is registered, and then its streams: it knows everybody again. The tests are its life, one after the other.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from domain import subjects
from domain.bus_rights import SUPERVISOR
from runtime.bus import Bus
from tests.running_platform import RunningPlatform, start_platform, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

HOSPITAL = "sz.e2e"
MONITOR = f"{HOSPITAL}/mon-1"


def register(platform: RunningPlatform) -> str:
    """A monitor on a patient with limits of their own; returns its token."""
    with platform.http() as http:
        hospital = {"id": HOSPITAL, "name": "End to end", "tier": "primary", "beds": 8}
        device = {"hospital_id": HOSPITAL, "device_id": "mon-1", "model": "monitor", "with_token": True}
        http.post("/hospitals", json=hospital).raise_for_status()
        answer = http.post("/devices", json=device)
        patient = http.post("/patients", json={"hospital_id": HOSPITAL, "ref": "MRN-1", "age_years": 60}).json()
        key = patient["patient_key"]
        span = {"hospital_id": HOSPITAL, "device_id": "mon-1", "patient_key": key, "start": "2026-01-01T00:00:00Z"}
        http.post("/associations", json=span).raise_for_status()
        http.put(f"/patients/{key}/presets/nibp_sys", json={"very_low": 100, "low": 110}).raise_for_status()
        return str(answer.json()["token"])


def send(platform: RunningPlatform, token: str, value: float) -> None:
    url = f"http://127.0.0.1:{platform.connection.http_port}/v1/readings"
    reading = {"metric": "nibp_sys", "value": value}
    httpx.post(url, json=reading, headers={"Authorization": f"Bearer {token}"}, timeout=20).raise_for_status()


def items(platform: RunningPlatform, path: str, **params: Any) -> list[dict[str, Any]]:
    with platform.http() as http:
        return list(http.get(path, params=params).raise_for_status().json()["items"])


def forget(platform: RunningPlatform) -> None:
    """What retention does in two days, for all that hosts have taken."""

    async def purge() -> None:
        bus = await Bus.connect(platform.connection.nats_url, platform.connection.bus_key(SUPERVISOR), "test")
        await bus._jetstream.purge_stream(subjects.READINGS_STREAM)
        await bus.close()

    asyncio.run(purge())


def stop(platform: RunningPlatform) -> None:
    """Ctrl-C, with which every process ends."""
    root = psutil.Process(platform.process.pid)
    family = [root, *root.children(recursive=True), *map(psutil.Process, platform.connection.process_pids.values())]
    assert platform.stop() == 0
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def worn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a platform that was stopped with one reading, and the token of the monitor that sent it."""
    folder = tmp_path_factory.mktemp("worn")
    platform = start_platform(folder)
    try:
        token = register(platform)
        send(platform, token, 120)
        stop(platform)
    finally:
        if platform.process.poll() is None:
            platform.kill()
    return folder, token


def after(worn: tuple[Path, str], value: float, rule: str) -> tuple[dict[str, Any], list[float], list[dict[str, Any]]]:
    """Start the platform, send a reading, wait for its alarm, and stop: the alarm, values stored, rejects."""
    folder, token = worn
    platform = start_platform(folder)
    try:
        send(platform, token, value)
        (alarm,) = wait_until(
            lambda: [row for row in items(platform, "/alarms", hospital=HOSPITAL) if row["rule"] == rule], 30,
            lambda: platform.log("hosts.log")[-3000:],
        )  # fmt: skip
        values = [row["value"] for row in items(platform, "/readings", device=MONITOR)]
        return alarm, sorted(values), items(platform, "/rejects")
    finally:
        platform.stop()


def test_what_was_acknowledged_is_there_again_after_a_stop_and_nothing_twice(worn: tuple[Path, str]) -> None:
    platform = start_platform(worn[0])
    try:
        found = wait_until(lambda: items(platform, "/readings", device=MONITOR), 30)
        assert [row["value"] for row in found] == [120.0]
        forget(platform)
    finally:
        platform.stop()


@pytest.mark.clause("9.3", "9.3d")
def test_devices_patients_and_limits_are_known_again_after_the_loss_of_all_snapshots(worn: tuple[Path, str]) -> None:
    for snapshot in (worn[0] / "snapshots").rglob("*.snapshot"):
        snapshot.unlink()
    alarm, values, refused = after(worn, 105, "limit.low")  # low for this patient alone
    assert (alarm["value"], alarm["limit"]) == (105.0, 110.0)
    assert (values, refused) == ([105.0, 120.0], [])
    assert "known again from the directory" in (worn[0] / "log" / "hosts.log").read_text()


@pytest.mark.clause("9.3")
def test_what_comes_after_the_loss_of_all_streams_is_kept_and_alarms(worn: tuple[Path, str]) -> None:
    shutil.rmtree(worn[0] / "nats")
    alarm, values, refused = after(worn, 95, "limit.very-low")
    assert (alarm["value"], alarm["limit"]) == (95.0, 100.0)
    assert values[0] == 95.0
    assert values[-1] == 120.0
    assert refused == []
