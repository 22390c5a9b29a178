"""A whole platform in security profile `cn`: what a device sends is in no file that it leaves behind, however it ends; nor is
it, or who is measured, in a file's name, in a subject or name on the bus, in a metric or in an error. No port speaks plain,
nobody else gets into its folders, and Ray leaves nothing. The tests are the platform's life, one after the other.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest

from cluster.sealing import file_seal
from domain.principals import Role
from runtime.lake import Lake, ReadingQuery
from runtime.sealed_file import is_sealed
from runtime.settings import Settings
from tests.bus_ear import folders_of, listening
from tests.listening_ports import assert_every_port_is_declared_and_speaks_tls
from tests.running_platform import RunningPlatform, start_platform, wait_until

pytestmark = [
    pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.clause("7.2c"), pytest.mark.clause("9.3"),
]  # fmt: skip

HOSPITAL: Final = "sz.sealed"
MONITOR: Final = f"{HOSPITAL}/mon-1"
BEFORE, AFTER, REFUSED = 81.23456789012345, 97.65432109876543, "planted-in-a-refused-message"
ALARMING: Final = 41.98765432109876  # mmHg, systolic
PATIENT: Final = ("王小芳-planted", "MRN-planted-10037")
SETTINGS: Final = {"SECURITY__PROFILE": "cn", "HOSTS__COUNT": "1", "SHARDS": "1"}
NOBODY: Final = 65534
RAYS: Final = ("gcs_server", "raylet")


@dataclass
class Life:
    """A platform in a folder that everybody may look into, as one of before has left it: it crashes, and comes back."""

    folder: Path
    platform: RunningPlatform
    folders: set[Path]  # its own, and Ray's of each start
    token: str = ""

    @property
    def ray_folder(self) -> Path:
        return Path((self.folder / "ray-folder").read_text())


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    folder = tmp_path_factory.mktemp("sealed") / "var"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "lock").touch()
    (folder / "lock").chmod(0o600)
    before = os.umask(0o022)
    try:
        platform = start_platform(folder, **SETTINGS)
    finally:
        os.umask(before)
    (folder / "up.out").chmod(0o600)  # of whoever started it
    one = Life(folder, platform, folders_of(platform))
    yield one
    if one.platform.process.poll() is None:
        one.platform.kill()


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


def open_to_others(folder: Path) -> list[str]:
    found = []
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # a running platform renames and deletes
            mode = path.lstat().st_mode
            if mode & 0o077 and not stat.S_ISLNK(mode):
                found.append(f"{path} {mode:o}")
    return found


def rays(platform: RunningPlatform) -> list[psutil.Process]:
    return [child for child in psutil.Process(platform.process.pid).children(recursive=True) if child.name() in RAYS]


def places_of(processes: list[psutil.Process]) -> set[Path]:
    """Where they have files open for writing, sockets too."""
    files = {Path(file.path) for process in processes for file in process.open_files() if file.mode != "r"}
    sockets = {Path(c.laddr) for process in processes for c in process.net_connections("unix") if str(c.laddr).startswith("/")}
    return files | sockets


@pytest.mark.clause("5.4a")
@pytest.mark.clause("9.4")
def test_nothing_that_was_sent_is_readable_where_it_runs(life: Life) -> None:
    platform = life.platform
    assert len(life.folders) == 2  # Ray's beside the platform's
    life.token = platform.register_monitor(HOSPITAL)
    with platform.http(Role.INTEGRATION) as http:
        patient = {"hospital_id": HOSPITAL, "ref": PATIENT[1], "name": PATIENT[0], "age_years": 60}
        key = http.post("/patients", json=patient).raise_for_status().json()["patient_key"]
        span = {"hospital_id": HOSPITAL, "device_id": "mon-1", "patient_key": key, "start": "2026-01-01T00:00:00Z"}
        http.post("/associations", json=span).raise_for_status()
    assert told(*errors_of(platform)) == []
    with listening(platform) as ear:
        send(platform, life.token, {"metric": "heart_rate", "value": BEFORE}).raise_for_status()
        assert send(platform, life.token, {"metric": REFUSED, "value": 1}).status_code == 422
        send(platform, life.token, {"metric": "nibp_sys", "value": ALARMING}).raise_for_status()
        wait_until(lambda: ALARMING in alarm_values(platform), 30, lambda: alarm_values(platform))
        names = ear.names()
    assert told(*names) == []
    assert {"reading.0", f"alarm.{HOSPITAL}", f"reject.{HOSPITAL}", "READINGS"} <= names
    wait_until(lambda: list((life.folder / "lake" / "readings").glob("day=*/*")), 30)
    wait_until(lambda: kept(platform) >= {BEFORE}, 30)
    wait_until(lambda: list((life.folder / "snapshots").glob("*/*.snapshot")), 30)
    assert readable(life.folders) == []
    with platform.http() as http:
        assert told(http.get(f"{platform.connection.api_url}/metrics").raise_for_status().text) == []


def test_nobody_else_gets_into_its_folders(life: Life) -> None:
    said = "".join((life.folder / "up.out").read_text().split())  # lines break where the path lets them
    assert f"{life.folder}wasopentoothers" in said
    wait_until((life.folder / "witness" / "socket").exists, 90)
    assert open_to_others(life.folder) == []
    assert (stat.S_IMODE(life.ray_folder.stat().st_mode), life.ray_folder.stat().st_uid) == (0o700, os.geteuid())
    places = places_of(rays(life.platform))
    assert places, "Ray writes somewhere"
    assert [path for path in places if not path.is_relative_to(life.ray_folder) and not str(path).startswith("/dev/")] == []
    if os.geteuid() == 0:
        looked = subprocess.run(["ls", life.ray_folder], user=NOBODY, check=False, capture_output=True)
        assert looked.returncode != 0


@pytest.mark.clause("5.4a")
@pytest.mark.clause("9.4")
def test_after_a_crash_nothing_is_readable_and_all_is_there_again(life: Life) -> None:
    of_before = life.ray_folder
    life.platform.kill()
    assert readable(life.folders) == []
    assert of_before.exists()
    life.platform = platform = start_platform(life.folder, **SETTINGS)
    assert not of_before.exists(), "the next start deletes what a killed platform left"
    life.folders |= folders_of(platform)
    send(platform, life.token, {"metric": "heart_rate", "value": AFTER}).raise_for_status()
    wait_until(lambda: values(platform) == {BEFORE, AFTER}, 30, lambda: values(platform))
    assert ALARMING in alarm_values(platform)
    with platform.http(Role.BIOMEDICAL_ENGINEER) as http:
        assert REFUSED in http.get("/rejects").raise_for_status().text
    assert_every_port_is_declared_and_speaks_tls(platform)


def test_after_a_stop_nothing_is_readable_and_ray_leaves_nothing(life: Life) -> None:
    its_own = life.ray_folder
    assert its_own.exists()
    assert life.platform.stop() == 0
    assert not its_own.exists()
    assert not (life.folder / "ray-folder").exists()
    (life.folder / "up.out").chmod(0o600)
    assert open_to_others(life.folder) == []
    assert kept(life.platform) >= {BEFORE, AFTER}
    assert readable(life.folders) == []
    sealed = [path for pattern in ("lake/readings/day=*/*", "snapshots/*/*") for path in life.folder.glob(pattern)]
    assert sealed
    assert [path for path in sealed if not is_sealed(path)] == []
    assert list((life.folder / "nats" / "jetstream").rglob("meta.key"))
