"""Room on disk: levels by what is free, said once when they change; a disk that cannot be written is full whatever is free."""

from __future__ import annotations

import logging
import os

import pytest

from domain.messages import StorageLevel
from runtime import storage
from runtime.storage import Place, StorageWatch, look_at

RESERVE = 100 * 2**20


class Disk:
    """What `statvfs` says of every place."""

    def __init__(self, free_bytes: int) -> None:
        self.f_bavail, self.f_frsize, self.f_flag, self.f_files, self.f_favail = free_bytes // 4096, 4096, 0, 1000, 1000


@pytest.fixture
def room(monkeypatch, tmp_path):
    def leave(free_bytes: int, **also: int) -> Place:
        disk = Disk(free_bytes)
        vars(disk).update(also)
        monkeypatch.setattr(storage.os, "statvfs", lambda _: disk)
        return Place("lake", tmp_path / "lake")

    return leave


@pytest.mark.parametrize(
    ("share", "level"), [(2.0, StorageLevel.OK), (0.9, StorageLevel.LOW), (0.2, StorageLevel.FULL), (0.0, StorageLevel.FULL)]
)
def test_the_level_is_that_of_what_is_free_beside_the_reserve(room, share, level):
    state = look_at(room(int(share * RESERVE)), RESERVE)
    assert state.level is level
    assert str(state.path) in state.says


def test_a_disk_is_full_when_it_is_read_only_has_no_inodes_or_fails_writes(room, monkeypatch):
    plenty = 10 * RESERVE
    assert "read-only" in look_at(room(plenty, f_flag=os.ST_RDONLY), RESERVE).says
    assert "inodes" in look_at(room(plenty, f_favail=0), RESERVE).says

    def failing(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage.os, "fsync", failing)
    state = look_at(room(plenty), RESERVE)
    assert (state.level, "Input/output error" in state.says) == (StorageLevel.FULL, True)
    assert look_at(room(plenty), RESERVE, write=False).level is StorageLevel.OK


def test_a_file_system_without_inodes_to_count_is_judged_by_its_bytes(room):
    assert look_at(room(10 * RESERVE, f_files=0, f_favail=0), RESERVE).level is StorageLevel.OK


def test_the_probe_leaves_nothing_behind(tmp_path):
    look_at(Place("log", tmp_path), 0)
    assert list(tmp_path.iterdir()) == []


def test_a_level_is_said_once_and_a_place_is_well_again_only_with_some_room_to_spare(room, caplog):
    watch = StorageWatch([room(2 * RESERVE)], RESERVE)
    seen = []
    with caplog.at_level(logging.WARNING):
        for share in (2.0, 0.9, 0.9, 0.2, 0.2, 1.05, 1.05, 1.2, 1.2):
            room(int(share * RESERVE))
            seen.append(watch.look()[0].level.value)
    assert seen == ["ok", "low", "low", "full", "full", "low", "low", "ok", "ok"]
    assert len(caplog.records) == 4
