"""The access log of a running platform: each write is in it, it is verified from outside, and no fault stops it."""

from __future__ import annotations

import base64
import hashlib
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result
from typer.testing import CliRunner

from cluster.cli import app
from cluster.connection import admin_token_file
from domain.errors import IntegrityViolation
from runtime.log_events import events_between
from runtime.log_store import LogReader
from runtime.sealing import is_sealed
from tests.running_platform import RunningPlatform, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.clause("9.3e")]

REASON = "the ward was rebuilt"


def vitalgrid(platform: RunningPlatform, *arguments: object) -> Result:
    """A command on the platform's machine."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VITALGRID_DATA_DIR", str(platform.data_dir))
        return CliRunner().invoke(app, list(map(str, arguments)))


def make_hospital(platform: RunningPlatform, name: str) -> None:
    with platform.http() as http:
        body = {"id": f"sz.{name}", "name": name, "tier": "primary", "beds": 8}
        answer = http.post("/hospitals", json=body, headers={"X-Reason": REASON})
        assert answer.status_code == 201, answer.text


def logged(platform: RunningPlatform) -> list[dict[str, Any]]:
    """Events that the published log has."""
    folder = platform.data_dir / "audit"
    checkpoint = LogReader(folder).checkpoint()
    size = 0 if checkpoint is None else checkpoint.size
    return [msgspec.json.decode(event.event) for event in events_between(folder, 0, size)]


def has(platform: RunningPlatform, target: str) -> bool:
    return any(
        {"identifier": {"value": target}} == entity.get("what") for event in logged(platform) for entity in event["entity"]
    )


@pytest.mark.clause("6.1b")
def test_a_write_stands_in_the_log_with_who_and_why_and_can_be_proved(platform: RunningPlatform, tmp_path: Path) -> None:
    make_hospital(platform, "log-1")
    wait_until(lambda: has(platform, "sz.log-1"), 20)
    folder = platform.data_dir / "audit"
    event = next(one for one in events_between(folder, 0, 10**6) if b"sz.log-1" in (one.event or b""))
    said = msgspec.json.decode(event.event)
    (reason,) = [one["valueString"] for one in said["entity"][0]["detail"] if one["type"] == "reason"]
    assert is_sealed(reason)
    assert said["agent"][0]["who"]["display"]
    with platform.http() as http:
        proof = http.get(f"/log/entries/{event.at}/proof").content
        entry = http.get(f"/log/entries/{event.at}").content
        keys = http.get("/log/keys").text.split()
        (tmp_path / "verifier.py").write_bytes(http.get("/log/verifier").content)
    opened = base64.b64encode(hashlib.sha256(event.salt + event.event).digest()).decode()
    assert msgspec.json.decode(entry)["commitment"] == opened
    assert REASON.encode() not in entry + proof
    (tmp_path / "proof").write_bytes(proof)
    (tmp_path / "entry").write_bytes(entry)
    vkeys = [argument for key in keys for argument in ("--vkey", key)]
    for arguments in (("proof", tmp_path / "proof", "--entry", tmp_path / "entry"),
                      ("log", f"{platform.connection.api_url}/api/v1/log", "--token-file",
                       admin_token_file(platform.data_dir))):  # fmt: skip
        command = [sys.executable, "-S", "-I", tmp_path / "verifier.py", *arguments, *vkeys]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_command_verifies_and_shows_the_log_and_fails_for_one_that_was_changed(
    platform: RunningPlatform, tmp_path: Path
) -> None:
    make_hospital(platform, "log-2")
    wait_until(lambda: has(platform, "sz.log-2"), 20)
    done = vitalgrid(platform, "log", "verify")
    assert done.exit_code == 0, done.output
    assert "2 signatures verified" in done.stdout
    assert vitalgrid(platform, "log", "verify", f"{platform.connection.api_url}/api/v1/log").exit_code == 0
    shown = vitalgrid(platform, "log", "show").stdout
    assert "sz.log-2" in shown
    assert REASON in shown  # this machine has the keys
    copy = tmp_path / "audit"
    copy.mkdir()
    shutil.copytree(platform.data_dir / "audit" / "tile", copy / "tile")
    shutil.copy(platform.data_dir / "audit" / "checkpoint", copy / "checkpoint")
    with sqlite3.connect(platform.data_dir / "audit" / "events.db") as live:
        live.execute("VACUUM INTO ?", (str(copy / "events.db"),))
    live.close()
    since = ("--since", platform.data_dir / "audit" / "checkpoint")
    assert vitalgrid(platform, "log", "verify", copy, *since).exit_code == 0
    size = LogReader(copy).checkpoint().size
    tile = copy / f"tile/entries/000.p/{size}"
    content = tile.read_bytes()
    tile.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    done = vitalgrid(platform, "log", "verify", copy)
    assert done.exit_code == 1
    assert isinstance(done.exception, IntegrityViolation)


@pytest.mark.clause("6.1b")
def test_checkpoints_are_signed_by_the_platforms_witness(platform: RunningPlatform, tmp_path: Path) -> None:
    make_hospital(platform, "log-3")
    wait_until(lambda: has(platform, "sz.log-3"), 20)
    file = platform.data_dir / "witness" / "vkey"
    wait_until(file.exists, 20)
    vkey = file.read_text().strip()

    def witnessed() -> bool:
        return vitalgrid(platform, "log", "verify", "--witness-vkey", vkey).exit_code == 0

    wait_until(witnessed, 20)
    assert "witnessed at" in vitalgrid(platform, "log", "verify", "--witness-vkey", vkey).stdout
    with platform.http() as http:
        assert f"{vkey.partition('+')[0]} ".encode() in http.get("/log/checkpoint").content
        detail = next(check for check in http.get("/ready").json()["checks"] if check["name"] == "access-log")
    assert detail["ok"]
    assert "by every witness" in detail["detail"]
    done = vitalgrid(platform, "log", "fsck")
    assert (done.exit_code, done.stdout.startswith("whole: ")) == (0, True), done.output


@pytest.mark.clause("7.2c")
def test_why_somebody_wrote_is_readable_in_no_file(platform: RunningPlatform) -> None:
    make_hospital(platform, "log-5")
    wait_until(lambda: has(platform, "sz.log-5"), 20)
    with platform.http() as http:
        assert http.get("/writes").json()["items"][0]["reason"] == REASON
    assert [path for path in platform.data_dir.rglob("*") if REASON.encode() in content_of(path)] == []


def content_of(path: Path) -> bytes:
    """Nothing, for what is no file or was taken away meanwhile."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except FileNotFoundError:
        return b""


def test_the_log_lies_where_only_its_owner_can_read(platform: RunningPlatform) -> None:
    assert (platform.data_dir / "audit").stat().st_mode & 0o077 == 0
    assert REASON not in "".join(platform.log(path.name) for path in (platform.data_dir / "log").iterdir())


@pytest.mark.clause("6.1b")
def test_who_reads_a_patient_is_found_in_the_log_and_the_patients_name_is_not(platform: RunningPlatform) -> None:
    make_hospital(platform, "log-6")
    name = "Ouyang Canary"
    with platform.http() as http:
        key = http.post("/patients", json={"hospital_id": "sz.log-6", "ref": "r-1", "name": name}).json()["patient_key"]
        assert http.get(f"/patients/{key}").json()["name"] == name
        http.get("/patients", params={"hospital": "sz.log-6", "q": "Canary"})

        def of_patient() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = http.get("/audit/events", params={"patient": key}).json()["items"]
            return found

        wait_until(lambda: any(event["what"] == f"patient.read /patients/{key}: 200" for event in of_patient()), 20)
        event = next(event for event in of_patient() if "patient.read" in event["what"])
        opened = base64.b64decode(event["salt"]) + base64.b64decode(event["event_bytes"])
        assert base64.b64encode(hashlib.sha256(opened).digest()).decode() == event["commitment"]
        # an event is known before a checkpoint covers its entry
        wait_until(lambda: http.get(f"/log/entries/{event['index']}").is_success, 20)
        assert http.get(f"/log/entries/{event['index']}").json()["commitment"] == event["commitment"]

        def told() -> set[str]:
            return {line["what"].split()[0] for line in http.get(f"/patients/{key}/accesses").json()["items"]}

        wait_until(lambda: told() >= {"patient.admit", "patient.read", "audit.read"}, 20)
        assert next(check for check in http.get("/ready").json()["checks"] if check["name"] == "access-log")["ok"]
    kept = b"".join(event.event or b"" for event in events_between(platform.data_dir / "audit", 0, 10**6))
    assert b"Canary" not in kept
