"""A platform that lost its snapshots after its stream forgot who is registered: it starts, and knows everybody again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain import subjects
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
        bus = await Bus.connect(platform.connection.nats_url, platform.connection.nats_token, "test")
        await bus._jetstream.purge_stream(subjects.READINGS_STREAM)
        await bus.close()

    asyncio.run(purge())


@pytest.mark.clause("9.3", "9.3d")
def test_devices_patients_and_limits_are_known_again_after_the_loss_of_all_snapshots(tmp_path: Path) -> None:
    platform = start_platform(tmp_path)
    try:
        token = register(platform)
        send(platform, token, 120)
        wait_until(lambda: items(platform, "/readings", device=MONITOR), 20)
        forget(platform)
    finally:
        assert platform.stop() == 0
    for snapshot in (tmp_path / "snapshots").rglob("*.snapshot"):
        snapshot.unlink()
    platform = start_platform(tmp_path)
    try:
        send(platform, token, 105)  # low for this patient alone
        (alarm,) = wait_until(
            lambda: items(platform, "/alarms", hospital=HOSPITAL), 30, lambda: platform.log("hosts.log")[-3000:]
        )
        found = items(platform, "/readings", device=MONITOR)
        refused = items(platform, "/rejects")
    finally:
        platform.stop()
    assert (alarm["rule"], alarm["value"], alarm["limit"]) == ("limit.low", 105.0, 110.0)
    assert sorted(row["value"] for row in found) == [105.0, 120.0]
    assert refused == []
    assert "known again from the directory" in platform.log("hosts.log")
