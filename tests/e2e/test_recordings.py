"""`vitalgrid fleet record` against a whole platform: it holds what its caller may see, and the log says who made it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import polars as pl
import pytest

from sim.recordings import read_recording
from tests.running_platform import RunningPlatform, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]
HOSPITAL: Final = "sz.recorded"
SHOWN, CLOSED = 71.0, 93.0


def on_patient(platform: RunningPlatform, device_id: str) -> tuple[str, str]:
    """A monitor that is on a patient: its token, and the patient's key."""
    device = {"hospital_id": HOSPITAL, "device_id": device_id, "model": "monitor", "ward_id": "w1", "with_token": True}
    with platform.http() as http:
        token = http.post("/devices", json=device).raise_for_status().json()["token"]
        patient = {"hospital_id": HOSPITAL, "ref": f"R-{device_id}", "ward_id": "w1"}
        key = http.post("/patients", json=patient).raise_for_status().json()["patient_key"]
        span = {"hospital_id": HOSPITAL, "device_id": device_id, "patient_key": key}
        http.post("/associations", json=span).raise_for_status()
    return str(token), str(key)


def withhold(platform: RunningPlatform, key: str) -> None:
    """The patient leaves, and asks for their erasure."""
    with platform.http(headers={"X-Reason": "asked by letter"}) as http:
        etag = http.get(f"/patients/{key}").headers["etag"]
        http.post(f"/patients/{key}/discharge", json={}, headers={"If-Match": etag}).raise_for_status()
        http.post(f"/patients/{key}/erasure").raise_for_status()
        assert http.get(f"/patients/{key}").status_code == 404


def recordings(platform: RunningPlatform) -> list[dict[str, Any]]:
    with platform.http() as http:
        return [one for one in http.get("/exports").json()["items"] if one["query"].get("recording") == HOSPITAL]


@contextmanager
def sending(platform: RunningPlatform, values: dict[str, float]) -> Iterator[None]:
    """Each of these tokens sends its value, again and again."""
    url, ended = f"http://127.0.0.1:{platform.connection.http_port}/v1/readings", threading.Event()

    def send() -> None:
        while not ended.wait(0.1):
            for token, value in values.items():
                body = {"metric": "heart_rate", "value": value}
                httpx.post(url, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=20)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        ended.set()
        sender.join()


@pytest.mark.clause("6.1b", "9.3e")
@pytest.mark.clause("9.3c")
def test_a_recording_leaves_out_who_is_withheld_and_is_in_the_access_log(platform: RunningPlatform, tmp_path: Path) -> None:
    shown = platform.register_monitor(HOSPITAL)
    (before, key_before), (meanwhile, key_meanwhile) = on_patient(platform, "mon-2"), on_patient(platform, "mon-3")
    withhold(platform, key_before)
    command = [
        sys.executable, "-m", "cluster.cli", "fleet", "record", "--out", str(tmp_path), "--hospital", HOSPITAL, "--for", "10s",
        "--data-dir", str(platform.data_dir),
    ]  # fmt: skip
    with sending(platform, {shown: SHOWN, before: CLOSED, meanwhile: CLOSED}):
        made = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_until(lambda: recordings(platform), 60)  # it is granted, with the readings of the one who stays a patient so far
        withhold(platform, key_meanwhile)
        told, _ = made.communicate(timeout=120)
    assert made.returncode == 0, told[-3000:]
    assert read_recording(tmp_path).manifest.hospitals[0].devices.device_ids == ["mon-1"]
    assert set(pl.read_parquet(tmp_path / "readings.parquet")["value"]) == {SHOWN}
    assert "left out" in told
    with platform.http() as http:
        wait_until(lambda: "reading.read /recordings: 201" in http.get("/audit/events").text, 20)
