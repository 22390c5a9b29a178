"""What a backup or a drill would touch is looked at before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.backup_drill import drill
from cluster.backup_making import Wish, create
from domain.errors import InvalidInput, NotFound
from runtime.clock import SystemClock
from runtime.settings import Settings


@pytest.mark.clause("9.1a")
async def test_nothing_is_restored_into_a_database_over_a_plain_link(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "var", database_url="postgresql://u@db/v?sslmode=verify-full")
    with pytest.raises(InvalidInput, match="--scratch-database is PostgreSQL at db with sslmode=none") as refused:
        await drill(settings, Wish(tmp_path / "backups"), SystemClock(), scratch_database="postgresql://u:s3cret@db/scratch")
    assert "s3cret" not in str(refused.value)
    assert not (tmp_path / "backups").exists()


async def test_a_folder_where_no_platform_ever_started_is_not_backed_up(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir(mode=0o700)
    with pytest.raises(NotFound, match="none was ever started there"):
        await create(Settings(data_dir=tmp_path / "none"), Wish(tmp_path / "backups"), SystemClock())
    assert list((tmp_path / "none").iterdir()) == []
