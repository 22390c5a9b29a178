"""A folder of the platform is made for its owner alone, and closed if it was not; nobody else's is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from domain.errors import Forbidden, InvalidInput
from runtime import private_folder
from runtime.private_folder import make_private

pytestmark = pytest.mark.clause("9.3")


def mode_of(folder: Path) -> int:
    return folder.stat().st_mode & 0o7777


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """There, and open to everybody."""
    made = tmp_path / "var"
    made.mkdir()
    made.chmod(0o755)
    return made


def test_a_folder_that_is_not_there_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    assert not make_private(tmp_path / "var")
    assert mode_of(tmp_path / "var") == 0o700


@pytest.mark.parametrize("holds", [(), ("lost+found",), ("lock", "lake", "anything")])
def test_one_that_is_empty_or_was_a_platforms_is_closed_to_others(folder: Path, holds: tuple[str, ...]) -> None:
    for name in holds:
        (folder / name).touch()
    assert make_private(folder)
    assert mode_of(folder) == 0o700
    assert not make_private(folder)


def test_one_with_other_things_in_it_is_left_as_it_is_and_refused(folder: Path) -> None:
    (folder / "homes").mkdir()
    with pytest.raises(Forbidden, match=r"mode 0755.*other things lie in it: close it \(chmod 700\)"):
        make_private(folder)
    assert mode_of(folder) == 0o755
    folder.chmod(0o700)
    assert not make_private(folder)


def test_one_that_everybody_shares_is_refused_empty_as_it_is(folder: Path) -> None:
    folder.chmod(0o1777)
    with pytest.raises(Forbidden):
        make_private(folder)
    assert mode_of(folder) == 0o1777


def test_one_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_folder.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(Forbidden, match=f"it is user {os.getuid()}'s"):
        make_private(folder)


def test_one_that_cannot_be_made_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="file/var cannot be made or used as a folder: Not a directory"):
        make_private(tmp_path / "file" / "var")
