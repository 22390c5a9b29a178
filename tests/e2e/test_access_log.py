"""The access log of a running platform: each write is in it, it is verified from outside, and no fault stops it."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cluster.connection import admin_token_file
from runtime.log_events import events_between
from runtime.log_store import LogReader
from tests.running_platform import RunningPlatform, start_platform, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.clause("9.3e")]

REASON = "the ward was rebuilt"


@pytest.fixture(scope="module")
def own_platform(tmp_path_factory: pytest.TempPathFactory):
    running = start_platform(tmp_path_factory.mktemp("access-log"))
    yield running
    running.stop()


def vitalgrid(platform: RunningPlatform, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster.cli", *map(str, arguments), "--data-dir", str(platform.data_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def make_hospital(platform: RunningPlatform, name: str) -> None:
    with platform.http() as http:
        body = {"id": f"sz.{name}", "name": name, "tier": "primary", "beds": 8}
        answer = http.post("/hospitals", json=body, headers={"X-Reason": REASON})
        assert answer.status_code == 201, answer.text


def logged(platform: RunningPlatform) -> list[dict[str, object]]:
    """Events that the published log has."""
    folder = platform.data_dir / "audit"
    checkpoint = LogReader(folder).checkpoint()
    size = 0 if checkpoint is None else checkpoint.size
    return [msgspec.json.decode(event.event) for event in events_between(folder, 0, size)]


def has(platform: RunningPlatform, target: str) -> bool:
    return any(event["target"] == target for event in logged(platform))


@pytest.mark.clause("6.1b")
def test_a_write_stands_in_the_log_with_who_and_why_and_can_be_proved(own_platform: RunningPlatform, tmp_path: Path) -> None:
    make_hospital(own_platform, "log-1")
    wait_until(lambda: has(own_platform, "sz.log-1"), 20)
    folder = own_platform.data_dir / "audit"
    event = next(one for one in events_between(folder, 0, 100) if b"sz.log-1" in (one.event or b""))
    said = msgspec.json.decode(event.event)
    assert (said["kind"], said["reason"]) == ("write", REASON)
    assert said["who"]
    with own_platform.http() as http:
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
                      ("log", f"{own_platform.connection.api_url}/api/v1/log", "--token-file",
                       admin_token_file(own_platform.data_dir))):  # fmt: skip
        command = [sys.executable, "-S", "-I", tmp_path / "verifier.py", *arguments, *vkeys]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_command_verifies_and_shows_the_log_and_fails_for_one_that_was_changed(
    own_platform: RunningPlatform, tmp_path: Path
) -> None:
    make_hospital(own_platform, "log-2")
    wait_until(lambda: has(own_platform, "sz.log-2"), 20)
    done = vitalgrid(own_platform, "log", "verify")
    assert done.returncode == 0, done.stderr
    assert "2 signatures verified" in done.stdout
    assert vitalgrid(own_platform, "log", "verify", f"{own_platform.connection.api_url}/api/v1/log").returncode == 0
    assert "sz.log-2" in vitalgrid(own_platform, "log", "show").stdout
    copy = tmp_path / "audit"
    copy.mkdir()
    shutil.copytree(own_platform.data_dir / "audit" / "tile", copy / "tile")
    shutil.copy(own_platform.data_dir / "audit" / "checkpoint", copy / "checkpoint")
    with sqlite3.connect(own_platform.data_dir / "audit" / "events.db") as live:
        live.execute("VACUUM INTO ?", (str(copy / "events.db"),))
    live.close()
    since = ("--since", own_platform.data_dir / "audit" / "checkpoint")
    assert vitalgrid(own_platform, "log", "verify", copy, *since).returncode == 0
    size = LogReader(copy).checkpoint().size
    tile = copy / f"tile/entries/000.p/{size}"
    content = tile.read_bytes()
    tile.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    done = vitalgrid(own_platform, "log", "verify", copy)
    assert done.returncode == 1
    assert "does not hold" in done.stderr


def test_a_killed_process_is_started_again_and_the_log_goes_on(own_platform: RunningPlatform) -> None:
    pid = own_platform.connection.process_pids["audit"]
    os.kill(pid, signal.SIGKILL)
    make_hospital(own_platform, "log-3")
    wait_until(lambda: has(own_platform, "sz.log-3"), 60)
    assert vitalgrid(own_platform, "log", "verify").returncode == 0
    assert [event["target"] for event in logged(own_platform)].count("sz.log-3") == 1
    with own_platform.http() as http:
        wait_until(lambda: "vitalgrid_log_troubled 0.0" in http.get("/metrics").text, 20)


def test_the_log_lies_where_only_its_owner_can_read(own_platform: RunningPlatform) -> None:
    assert (own_platform.data_dir / "audit").stat().st_mode & 0o077 == 0
    assert REASON not in "".join(own_platform.log(path.name) for path in (own_platform.data_dir / "log").iterdir())
