"""A bit that flips in a file of the lake or in its log is found and named, and never believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from domain.errors import IntegrityViolation
from runtime import lake_checksums
from runtime.lake import Advance, Lake, ReadingQuery
from runtime.lake_files import scan_files
from runtime.lake_folder import LakeFolder
from runtime.lake_upkeep import compact
from tests.lake_samples import START_US, sample_rows


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Two commits in a lake that no process has read yet."""
    monkeypatch.setattr(lake_checksums, "_intact", set())
    lake = Lake(tmp_path / "readings")
    for number in range(2):
        lake.commit(sample_rows(200), {0: Advance(number, number + 1, 1)})
    return lake


def flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 0x04
    path.write_bytes(data)


@pytest.mark.clause("9.3")
@pytest.mark.parametrize("at", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_damaged_file_is_named_and_not_read(lake: Lake, caplog: pytest.LogCaptureFixture, at: float) -> None:
    damaged = sorted(lake.path.glob("day=*/*.parquet"))[0]
    flip(damaged, at)
    with pytest.raises(IntegrityViolation, match=damaged.name):
        lake.read(ReadingQuery())
    with pytest.raises(IntegrityViolation, match=damaged.name):
        compact(lake, START_US + 10**13, min_files=2)
    assert {record.file for record in caplog.records} == {f"{damaged.parent.name}/{damaged.name}"}
    flip(damaged, at)
    assert len(lake.read(ReadingQuery())) > 0


def test_a_file_of_an_older_version_is_believed(lake: Lake, tmp_path: Path) -> None:
    old = sorted(lake.path.glob("day=*/*.parquet"))[0].rename(tmp_path / f"{'0' * 32}.parquet")
    assert len(scan_files(LakeFolder(lake.path), [str(old)]).collect()) > 0


@pytest.mark.clause("9.3")
def test_a_damaged_entry_of_the_log_is_named_and_nothing_behind_it_is_forgotten(lake: Lake) -> None:
    entry = lake.path / "_delta_log" / f"{1:020d}.json"
    whole = entry.read_bytes()
    entry.write_bytes(whole.replace(b'":', b'"z', 1))
    with pytest.raises(IntegrityViolation, match=entry.name):
        Lake(lake.path)
    entry.write_bytes(whole)
    assert Lake(lake.path).positions().positions == {0: 2}
