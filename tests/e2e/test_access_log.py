"""The access log of a running platform: each write is in it, it is verified from outside, and no fault stops it."""

from __future__ import annotations

import base64
import hashlib
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

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


def logged(platform: RunningPlatform) -> list[dict[str, object]]:
    """Events that the published log has."""
    folder = platform.data_dir / "audit"
    checkpoint = LogReader(folder).checkpoint()
    size = 0 if checkpoint is None else checkpoint.size
    return [msgspec.json.decode(event.event) for event in events_between(folder, 0, size)]


def has(platform: RunningPlatform, target: str) -> bool:
    return any(event["target"] == target for event in logged(platform))


@pytest.mark.clause("6.1b")
def test_a_write_stands_in_the_log_with_who_and_why_and_can_be_proved(platform: RunningPlatform, tmp_path: Path) -> None:
    make_hospital(platform, "log-1")
    wait_until(lambda: has(platform, "sz.log-1"), 20)
    folder = platform.data_dir / "audit"
    event = next(one for one in events_between(folder, 0, 100) if b"sz.log-1" in (one.event or b""))
    said = msgspec.json.decode(event.event)
    assert said["kind"] == "write"
    assert is_sealed(said["reason"])
    assert said["who"]
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


@pytest.mark.clause("7.2c")
def test_why_somebody_wrote_is_readable_in_no_file(platform: RunningPlatform) -> None:
    make_hospital(platform, "log-3")
    wait_until(lambda: has(platform, "sz.log-3"), 20)
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
