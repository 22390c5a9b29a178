"""`vitalgrid fleet record` against a whole platform: it holds what its caller may see, and the log says who made it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import polars as pl
import pytest

from sim.recordings import read_recording
from tests.running_platform import RunningPlatform, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]
HOSPITAL: Final = "sz.recorded"
SHOWN, CLOSED = 71.0, 93.0


def withheld(platform: RunningPlatform) -> str:
    """A second monitor, which was on a patient whose erasure is asked for; its token."""
    said = {"X-Reason": "asked by letter"}
    device = {"hospital_id": HOSPITAL, "device_id": "mon-2", "model": "monitor", "ward_id": "w1", "with_token": True}
    with platform.http(headers=said) as http:
        token = str(http.post("/devices", json=device).raise_for_status().json()["token"])
        patient = {"hospital_id": HOSPITAL, "ref": "R-1", "ward_id": "w1"}
        key = http.post("/patients", json=patient).raise_for_status().json()["patient_key"]
        span = {"hospital_id": HOSPITAL, "device_id": "mon-2", "patient_key": key}
        http.post("/associations", json=span).raise_for_status()
        etag = http.get(f"/patients/{key}").headers["etag"]
        http.post(f"/patients/{key}/discharge", json={}, headers={"If-Match": etag}).raise_for_status()
        http.post(f"/patients/{key}/erasure").raise_for_status()
        assert http.get(f"/patients/{key}").status_code == 404
    return token


@contextmanager
def sending(platform: RunningPlatform, **values: float) -> Iterator[None]:
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
    tokens = {platform.register_monitor(HOSPITAL): SHOWN, withheld(platform): CLOSED}
    command = [
        sys.executable, "-m", "cluster.cli", "fleet", "record", "--out", str(tmp_path), "--hospital", HOSPITAL, "--for", "3s",
        "--data-dir", str(platform.data_dir),
    ]  # fmt: skip
    with sending(platform, **tokens):
        made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    assert read_recording(tmp_path).manifest.hospitals[0].devices.device_ids == ["mon-1"]
    assert set(pl.read_parquet(tmp_path / "readings.parquet")["value"]) == {SHOWN}
    assert "left out" in made.stdout
    with platform.http() as http:
        assert http.get("/exports").json()["items"][0]["query"]["recording"] == HOSPITAL
        wait_until(lambda: "reading.read /recordings: 201" in http.get("/audit/events").text, 20)
