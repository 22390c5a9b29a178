"""Ray's folder: closed, short enough for a socket, and deleted with what is in it; nothing else is."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from cluster import ray_folder
from cluster.ray_folder import RayFolder

SESSION = "session_2026-01-01_00-00-00_000000_4194304"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setattr(ray_folder, "_temporary", lambda: folder)
    return folder


def test_it_is_closed_to_others_and_each_start_has_its_own(tmp_path: Path, temporary: Path) -> None:
    folder = RayFolder(tmp_path / "note")
    first = folder.renew()
    assert {path.stat().st_mode & 0o7777 for path in (first, first.parent)} == {0o700}
    (first / SESSION / "logs").mkdir(parents=True)
    second = RayFolder(tmp_path / "note").renew()
    assert [*temporary.iterdir()] == [second.parent]
    assert second.parent != first.parent
    folder.remove()
    assert ([*temporary.iterdir()], (tmp_path / "note").exists()) == ([], False)
    folder.remove()


def test_what_the_note_does_not_rightly_name_is_not_deleted(tmp_path: Path, temporary: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    link = temporary / "vitalgrid-link"
    link.symlink_to(kept)
    for noted in (kept, link):
        (tmp_path / "note").write_text(str(noted))
        RayFolder(tmp_path / "note").renew()
        assert kept.is_dir()
        RayFolder(tmp_path / "note").remove()


@pytest.mark.parametrize(
    ("letters", "mode", "is_taken"), [(10, 0o700, True), (11, 0o700, False), (10, 0o777, False), (10, 0o1777, True)]
)
def test_a_socket_has_room_in_its_path_and_nobody_else_can_rename_the_folder(
    monkeypatch: pytest.MonkeyPatch, letters: int, mode: int, is_taken: bool
) -> None:
    given = Path("/tmp") / f"{secrets.randbelow(10**letters):0{letters}}"
    given.mkdir()
    given.chmod(mode)
    monkeypatch.setattr(ray_folder.tempfile, "gettempdir", lambda: str(given))
    try:
        taken = ray_folder._temporary()
    finally:
        given.rmdir()
    assert taken == (given if is_taken else Path("/tmp"))
    assert len(os.fsencode(taken / f"vitalgrid-{'0' * 12}" / "r" / SESSION / "sockets" / "plasma_store.10")) <= 107
