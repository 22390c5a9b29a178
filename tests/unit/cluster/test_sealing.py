"""What sealing asks of the machine, and what the doctor says of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.doctor_sealing import keys, sealing
from cluster.findings import Level
from cluster.sealing import SPILL_BUDGET, file_seal, keep_off_disk, make_keys
from runtime.clock import ManualClock
from runtime.settings import Settings
from runtime.soft_keys import SoftKeys

LARGE_QUESTION = """
import polars as pl
rows = pl.LazyFrame({"handle": range(2_000_000)}).select(pl.col("handle").reverse(), value=pl.col("handle") * 0.5)
print(rows.sort("handle").collect(engine="streaming").height)
"""

pytestmark = pytest.mark.clause("7.2c")


def settings_of(folder: Path, *, sealed: bool = True) -> Settings:
    return Settings(data_dir=folder, security={"seal_files": sealed})


@pytest.mark.parametrize("sealed", [True, False])
def test_a_question_that_is_short_of_memory_puts_nothing_on_disk_where_files_are_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sealed: bool
) -> None:
    """Unsealed it does: so the name of what forbids it still holds."""
    monkeypatch.delenv(SPILL_BUDGET, raising=False)
    keep_off_disk(settings_of(tmp_path, sealed=sealed))
    monkeypatch.setenv(SPILL_BUDGET, os.environ.get(SPILL_BUDGET, "1000"))  # set by us or not, it is undone afterwards
    short = {"POLARS_OOC_MEMORY_BUDGET_MB": "1", "POLARS_OOC_SPILL_DIR": str(tmp_path), "POLARS_MAX_THREADS": "2"}
    asked = subprocess.run(
        [sys.executable, "-c", LARGE_QUESTION], env={**os.environ, **short}, capture_output=True, text=True, check=False
    )
    assert ("out-of-core disk budget" in asked.stderr) is sealed, asked.stderr
    assert (asked.returncode != 0) is sealed


def test_the_doctor_says_whether_data_is_sealed_and_whether_its_keys_are_there(tmp_path: Path) -> None:
    def said(*, sealed: bool = True) -> tuple[Level, str]:
        (finding,) = sealing(settings_of(tmp_path, sealed=sealed))
        return finding.level, finding.says.partition(":")[0]

    assert said(sealed=False) == (Level.OK, "off")
    assert said() == (Level.OK, "on")
    assert list(tmp_path.iterdir()) == []
    settings = settings_of(tmp_path)
    assert make_keys(settings) == ["lake", "streams"]
    assert said() == (Level.OK, "on")
    sealed = tmp_path / "snapshots" / "shard-0001" / "a.snapshot"
    sealed.parent.mkdir(parents=True)
    sealed.write_bytes(file_seal(settings).seal(b"state", "a"))
    (tmp_path / "keys").rename(tmp_path / "elsewhere")
    assert said()[0] is Level.PROBLEM


def test_the_doctor_names_keys_that_nobody_rotated_for_a_year(tmp_path: Path) -> None:
    settings, clock = settings_of(tmp_path), ManualClock(1_790_000_000_000_000)

    def said() -> tuple[Level, str]:
        (finding,) = keys(settings, clock)
        return finding.level, finding.says.rpartition(": ")[2]

    assert said()[0] is Level.OK
    assert list(tmp_path.iterdir()) == []
    provider = SoftKeys(settings.keys_dir, clock)
    for name in ("fields", "pepper", "witness-ed25519"):
        provider.rotate(name)
    clock.advance(365 * 86_400)
    assert said()[0] is Level.OK
    provider.rotate("pepper")
    clock.advance(2 * 86_400)
    assert said() == (Level.WARNING, "fields")  # of a witness another key is another witness: nobody is asked to
    (settings.keys_dir / "fields" / "1.key").write_text("nonsense")
    assert said()[0] is Level.PROBLEM
