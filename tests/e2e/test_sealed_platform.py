"""A whole platform in security profile `cn`: what a device sends is in no file that it leaves behind, however it ends; nor is
it, or who is measured, in a file's name, in a subject or name on the bus, in a metric or in an error. No port speaks plain.
"""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from cluster.sealing import file_seal
from domain.principals import Role
from runtime.lake import Lake, ReadingQuery
from runtime.sealed_file import is_sealed
from runtime.settings import Settings
from tests.bus_ear import folders_of, listening
from tests.listening_ports import assert_every_port_is_declared_and_speaks_tls
from tests.running_platform import RunningPlatform, start_platform, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.clause("7.2c")]

HOSPITAL: Final = "sz.sealed"
MONITOR: Final = f"{HOSPITAL}/mon-1"
BEFORE, AFTER, REFUSED = 81.23456789012345, 97.65432109876543, "planted-in-a-refused-message"
ALARMING: Final = 41.98765432109876  # mmHg, systolic
PATIENT: Final = ("王小芳-planted", "MRN-planted-10037")
SETTINGS: Final = {"SECURITY__PROFILE": "cn", "HOSTS__COUNT": "1", "SHARDS": "1"}


def planted() -> dict[str, bytes]:
    """What is looked for: values as numbers and as texts, a refused message, and who is measured."""
    values = (BEFORE, AFTER, ALARMING)
    found = {f"{value} as text": str(value).encode() for value in values}
    found |= {f"{value} as a number": struct.pack("<d", value) for value in values}
    return found | {text: text.encode() for text in (REFUSED, *PATIENT)}


def readable(folders: set[Path]) -> list[str]:
    """Where something planted lies in clear: in a file, or in the name of one."""
    found = []
    for path in (path for folder in folders for path in folder.rglob("*")):
        content = b""
        with contextlib.suppress(FileNotFoundError):  # what was there for the time being
            content = path.read_bytes() if path.is_file() else content
        found += [f"{what} in the name {path}" for what, canary in planted().items() if canary in os.fsencode(path)]
        found += [f"{what} in {path}" for what, canary in planted().items() if canary in content]
    return found


def told(*texts: str) -> list[str]:
    """What of the planted is in these texts."""
    said = "\n".join(texts).encode()
    return [what for what, canary in planted().items() if canary in said]


def errors_of(platform: RunningPlatform) -> list[str]:
    """What is answered to who does something wrong with the patient that is there."""
    again = {"hospital_id": HOSPITAL, "ref": PATIENT[1], "name": PATIENT[0], "age_years": 60}
    with platform.http(Role.INTEGRATION) as http:
        answers = [
            http.post("/patients", json=again),
            http.post("/patients", json=again | {"age_years": "old"}),
            http.post("/patients", json=again | {"hospital_id": "sz.nowhere"}),
            http.post("/patients", content=f'{{"name": "{PATIENT[0]}", "ref": "{PATIENT[1]}"'.encode()),
        ]
    assert [answer.status_code for answer in answers if answer.is_success] == []
    return [answer.text for answer in answers]


def send(platform: RunningPlatform, token: str, body: dict[str, Any]) -> httpx.Response:
    url = f"https://127.0.0.1:{platform.connection.http_port}/v1/readings"
    trust = platform.connection.doors_trust
    assert trust is not None
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.post(url, json=body, headers=headers, verify=trust.context(), trust_env=False, timeout=20)


def values(platform: RunningPlatform) -> set[float]:
    with platform.http(Role.SCENARIO_RUNNER) as http:
        answer = http.get("/readings", params={"device": MONITOR, "metric": "heart_rate"})
    return {row["value"] for row in answer.json()["items"]} if answer.is_success else set()


def alarm_values(platform: RunningPlatform) -> set[float | None]:
    with platform.http(Role.SCENARIO_RUNNER) as http:
        answer = http.get("/alarms", params={"hospital": HOSPITAL})
    return {row["value"] for row in answer.json()["items"]} if answer.is_success else set()


def lake_of(platform: RunningPlatform) -> Lake:
    settings = Settings(data_dir=platform.data_dir, security={"profile": "cn"})
    return Lake(settings.lake_dir, file_seal(settings))


def kept(platform: RunningPlatform) -> set[float]:
    return set(lake_of(platform).read(ReadingQuery())["value"])


@pytest.mark.clause("9.3")
@pytest.mark.clause("5.4a")
@pytest.mark.clause("9.4")
def test_nothing_that_was_sent_is_readable_after_a_crash_nor_after_a_stop(tmp_path: Path) -> None:
    platform = start_platform(tmp_path, **SETTINGS)
    folders = folders_of(platform)
    assert len(folders) == 2  # Ray's beside the platform's
    try:
        token = platform.register_monitor(HOSPITAL)
        with platform.http(Role.INTEGRATION) as http:
            patient = {"hospital_id": HOSPITAL, "ref": PATIENT[1], "name": PATIENT[0], "age_years": 60}
            key = http.post("/patients", json=patient).raise_for_status().json()["patient_key"]
            span = {"hospital_id": HOSPITAL, "device_id": "mon-1", "patient_key": key, "start": "2026-01-01T00:00:00Z"}
            http.post("/associations", json=span).raise_for_status()
        assert told(*errors_of(platform)) == []
        with listening(platform) as ear:
            send(platform, token, {"metric": "heart_rate", "value": BEFORE}).raise_for_status()
            assert send(platform, token, {"metric": REFUSED, "value": 1}).status_code == 422
            send(platform, token, {"metric": "nibp_sys", "value": ALARMING}).raise_for_status()
            wait_until(lambda: ALARMING in alarm_values(platform), 30, lambda: alarm_values(platform))
            names = ear.names()
        assert told(*names) == []
        assert {"reading.0", f"alarm.{HOSPITAL}", f"reject.{HOSPITAL}", "READINGS"} <= names
        wait_until(lambda: list((tmp_path / "lake" / "readings").glob("day=*/*")), 30)
        wait_until(lambda: kept(platform) >= {BEFORE}, 30)
        wait_until(lambda: list((tmp_path / "snapshots").glob("*/*.snapshot")), 30)
        assert readable(folders) == []
        with platform.http() as http:
            assert told(http.get(f"{platform.connection.api_url}/metrics").raise_for_status().text) == []
        platform.kill()
        assert readable(folders) == []
        platform = start_platform(tmp_path, **SETTINGS)
        folders |= folders_of(platform)
        send(platform, token, {"metric": "heart_rate", "value": AFTER}).raise_for_status()
        wait_until(lambda: values(platform) == {BEFORE, AFTER}, 30, lambda: values(platform))
        assert ALARMING in alarm_values(platform)
        with platform.http(Role.BIOMEDICAL_ENGINEER) as http:
            assert REFUSED in http.get("/rejects").raise_for_status().text
        assert_every_port_is_declared_and_speaks_tls(platform)
        assert platform.stop() == 0
    finally:
        if platform.process.poll() is None:
            platform.kill()
    assert kept(platform) >= {BEFORE, AFTER}
    assert readable(folders) == []
    sealed = [path for pattern in ("lake/readings/day=*/*", "snapshots/*/*") for path in tmp_path.glob(pattern)]
    assert sealed
    assert [path for path in sealed if not is_sealed(path)] == []
    assert list((tmp_path / "nats" / "jetstream").rglob("meta.key"))
