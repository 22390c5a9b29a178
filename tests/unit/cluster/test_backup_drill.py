"""What a drill would touch is looked at before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.backup_drill import drill
from cluster.backup_making import Wish
from domain.errors import InvalidInput
from runtime.clock import SystemClock
from runtime.settings import Settings


@pytest.mark.clause("9.1a")
async def test_nothing_is_restored_into_a_database_over_a_plain_link(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "var", database_url="postgresql://u@db/v?sslmode=verify-full")
    with pytest.raises(InvalidInput, match="--scratch-database is PostgreSQL at db with sslmode=none") as refused:
        await drill(settings, Wish(tmp_path / "backups"), SystemClock(), scratch_database="postgresql://u:s3cret@db/scratch")
    assert "s3cret" not in str(refused.value)
    assert not (tmp_path / "backups").exists()
