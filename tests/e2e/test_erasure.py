"""A person is erased from a running platform whose upkeep is killed meanwhile: no file has them, and the certificate holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from httpx import Client

from tests.running_platform import RunningPlatform, start_platform, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.clause("9.3h")]

HOSPITAL: Final = "sz.erase"
NAME, REF, WHY, NOTE = "Canary王小芳", "MRN-canary-77", "canary asked by letter", "canary note"
TEMPERATURE: Final = 38.123456789
SETTINGS: Final = {
    "HOSTS__COUNT": "1", "SHARDS": "1", "RETENTION__INPATIENT_DAYS": "0", "RETENTION__ERASURE_GRACE_S": "0",
    "RETENTION__LOOK_EVERY_S": "0.3", "LAKE__FLUSH_INTERVAL_S": "1",
}  # fmt: skip


def stay(http: Client) -> str:
    """A patient is admitted, measured, looked for by name with a reason, and discharged; their key."""
    patient = {"hospital_id": HOSPITAL, "ref": REF, "name": NAME, "age_years": 61, "ward_id": "w1"}
    said = {"X-Reason": WHY}
    key = str(http.post("/patients", json=patient, headers=said).raise_for_status().json()["patient_key"])
    span = {"hospital_id": HOSPITAL, "device_id": "mon-1", "patient_key": key}
    http.post("/associations", json=span, headers=said).raise_for_status()
    seen = {"observations": [{"metric": "body_temp", "value": TEMPERATURE, "unit": "Cel"}]}
    http.post(f"/patients/{key}/observations", json=seen).raise_for_status()
    http.get("/patients", params={"q": NAME}, headers=said).raise_for_status()
    etag = http.get(f"/patients/{key}", headers=said).headers["etag"]
    http.post(f"/patients/{key}/discharge", json={}, headers={"If-Match": etag, **said}).raise_for_status()
    return key


def kill_upkeep(platform: RunningPlatform) -> None:
    children = psutil.Process(platform.process.pid).children(recursive=True)
    (upkeep,) = (process for process in children if "cluster.upkeep_process" in process.cmdline())
    upkeep.kill()


def readable(platform: RunningPlatform) -> list[str]:
    found = []
    for path in platform.data_dir.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found += [f"{text} in {path}" for text in (NAME, REF, WHY, NOTE) if text.encode() in content]
    return found


def verified(platform: RunningPlatform, file: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "cluster.cli",
        "log",
        "verify-certificate",
        str(file),
        "--data-dir",
        str(platform.data_dir),
    ]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **platform.environment}, check=False)


def test_a_person_is_erased_though_upkeep_is_killed_and_no_file_has_them(tmp_path: Path) -> None:
    platform = start_platform(tmp_path / "var", **SETTINGS)  # files in clear: what is sealed is readable to nobody anyway
    try:
        platform.register_monitor(HOSPITAL)
        with platform.http() as http:
            key = stay(http)
            wait_until(lambda: _in_lake(http) > 0, 30)
            asked = http.post(f"/patients/{key}/erasure", headers={"X-Reason": WHY})
            assert asked.status_code == 202, asked.text
            kill_upkeep(platform)
            ended = wait_until(lambda: _ended(http, key), 90, lambda: platform.log("upkeep.log")[-3000:])
            assert ended["done"]["lake"]["rows"] >= 1, ended
            assert ended["done"]["sql"]["associations"] >= 1
            assert http.get(f"/patients/{key}").status_code == 404
            assert http.get("/patients", params={"q": NAME}).json()["items"] == []
            bundle = wait_until(lambda: _certificate(http, key), 30)
            assert readable(platform) == []
        file = tmp_path / "certificate.json"
        file.write_bytes(bundle)
        done = verified(platform, file)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"patient: {key}" in done.stdout
        file.write_bytes(bundle.replace(b"keys destroyed", b"keys Destroyed"))
        assert verified(platform, file).returncode == 1
        assert platform.stop() == 0
    finally:
        if platform.process.poll() is None:
            platform.kill()
    assert readable(platform) == []


def _in_lake(http: Client) -> int:
    rules: list[dict[str, Any]] = http.get("/retention").raise_for_status().json()
    return next(int(rule["rows"]) for rule in rules if rule["kind"] == "readings")


def _ended(http: Client, key: str) -> dict[str, Any] | None:
    answer: dict[str, Any] = http.get(f"/patients/{key}/erasure").raise_for_status().json()
    return answer if answer["state"] == "erased" else None


def _certificate(http: Client, key: str) -> bytes | None:
    answer = http.get(f"/patients/{key}/erasure/certificate")
    return answer.content if answer.status_code == 200 else None
