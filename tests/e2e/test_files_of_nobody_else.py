"""What the platform leaves on disk is its user's alone: its own folder, which others could look into, and Ray's."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.running_platform import RunningPlatform, start_platform, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.clause("9.3")]

NOBODY = 65534
RAYS = ("gcs_server", "raylet")


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[RunningPlatform]:
    """In a folder that everybody may look into, as a platform of before has left it."""
    folder = tmp_path / "var"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "lock").touch()
    (folder / "lock").chmod(0o600)
    before = os.umask(0o022)
    try:
        running = start_platform(folder, SECURITY__PROFILE="standard")
    finally:
        os.umask(before)
    (folder / "up.out").chmod(0o600)  # of whoever started it
    yield running
    if running.process.poll() is None:
        running.stop()


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


def test_nobody_else_gets_into_the_platforms_folders_and_ray_leaves_nothing(platform: RunningPlatform) -> None:
    said = "".join((platform.data_dir / "up.out").read_text().split())  # lines break where the path lets them
    assert f"{platform.data_dir}wasopentoothers" in said
    wait_until(lambda: list((platform.data_dir / "snapshots").rglob("*.*")), 90)
    wait_until((platform.data_dir / "witness" / "socket").exists, 90)
    assert open_to_others(platform.data_dir) == []

    outer = Path((platform.data_dir / "ray-folder").read_text())
    assert (stat.S_IMODE(outer.stat().st_mode), outer.stat().st_uid) == (0o700, os.geteuid())
    places = places_of(rays(platform))
    assert places, "Ray writes somewhere"
    assert [path for path in places if not path.is_relative_to(outer) and not str(path).startswith("/dev/")] == []
    if os.geteuid() == 0:
        looked = subprocess.run(["ls", outer], user=NOBODY, check=False, capture_output=True)
        assert looked.returncode != 0

    platform.kill()
    assert outer.exists()
    again = start_platform(platform.data_dir, SECURITY__PROFILE="standard")
    try:
        assert not outer.exists(), "the next start deletes what a killed platform left"
        its_own = Path((platform.data_dir / "ray-folder").read_text())
        assert its_own.exists()
    finally:
        assert again.stop() == 0
    assert not its_own.exists()
    assert not (platform.data_dir / "ray-folder").exists()
    (platform.data_dir / "up.out").chmod(0o600)
    assert open_to_others(platform.data_dir) == []
