"""What commands say of files and folders that are not there, or not what they should be: a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.device_commands import device_ids_in
from domain.errors import InvalidInput, NotFound
from scenarios.recorded import find_recording, place_of

VKEY = "sz+00000000+AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
REPOSITORY = Path(__file__).resolve().parents[3]


def vitalgrid(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """As somebody runs it in `folder`."""
    words = [sys.executable, "-m", "cluster.cli", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "VITALGRID_DATA_DIR": "var", "COLUMNS": "500"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.clause("9.3")
@pytest.mark.parametrize(
    "arguments",
    [
        ("backup", "create", "--to", "file/backups"),
        ("backup", "create", "--to", "backups", "--keys", "file/keys"),
        ("backup", "drill", "--to", "file/backups"),
        ("backup", "restore", "--from", "file/backups", "--data-dir", "file/var"),
        ("witness", "--name", "w", "--log-vkey", VKEY, "--data-dir", "file/w"),
        ("log", "verify", "--since", "file/checkpoint"),
        ("keys", "rotate", "fields", "--data-dir", "file/var"),
        ("ray-certificate", "10.0.0.7", "--data-dir", "file/var"),
        ("scenario", "report", "--reports", "file/reports"),
        ("up", "--data-dir", "file/var"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_folder_that_cannot_be_used_is_said_in_a_sentence(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "var" / "nats").mkdir(parents=True)
    ended = vitalgrid(tmp_path, *arguments)
    assert "Traceback" not in ended.stdout + ended.stderr, ended.stderr[-600:]
    status = 2 if arguments[:2] == ("log", "verify") else 1  # it could not be checked, which is not that it does not hold
    assert (ended.returncode, ended.stderr.strip().count("\n")) == (status, 0), ended.stderr


def test_a_recording_is_looked_for_where_the_caller_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").touch()
    assert place_of("mine.csv") == tmp_path / "mine.csv"
    assert place_of("tests/data") == REPOSITORY / "tests" / "data"
    with pytest.raises(NotFound, match=f"there is no recording at {tmp_path}/nosuch.csv"):
        place_of("nosuch.csv")
    assert isinstance(CliRunner().invoke(app, ["fleet", "replay", "nosuch.csv"]).exception, NotFound)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "has no column device_id: its first line has nothing"),
        ("id;device\nmon-1;x\n", "has no column device_id: its first line has 'id;device'"),
        ("device,ward\nmon-1,icu\n", "its first line has 'device', 'ward'"),
        ("device_id\n", "names no device"),
    ],
)
def test_a_list_of_devices_says_what_it_lacks(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "devices.csv"
    file.write_text(content)
    with pytest.raises(InvalidInput, match=says):
        device_ids_in(file)
    file.write_text("\ufeffdevice_id,ward\nmon-1,icu\n,icu\n", encoding="utf-8")
    assert device_ids_in(file) == ["mon-1", ""]


@pytest.mark.parametrize("content", [b"", b"\x00\x01\xff", b"a,b\n1,2\n"])
def test_a_file_that_is_no_recording_is_said_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.csv").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"some\.csv is no recording"):
        find_recording(str(tmp_path / "some.csv"), 1, None, "sz")
