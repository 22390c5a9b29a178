"""Copies of a business database that is written to: as of one moment, with what each table had then. Clause 9.3."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from domain.errors import Conflict, IntegrityViolation, Unavailable
from runtime.sql import places
from runtime.sql.copying import (
    Copied,
    copy_business,
    copy_sqlite,
    dump_postgresql,
    facts_of_sqlite,
    facts_of_tables,
    restore_postgresql,
    send_again,
)
from runtime.sql.engine import open_engine
from tests.sql_fixtures import ADA, SQLITE, NewDatabase, SmallHospital, add_hospital

pytestmark = [pytest.mark.integration, pytest.mark.clause("9.3")]


def copied(engine: Engine, to: Path) -> Copied:
    if engine.dialect.name == SQLITE:
        return copy_business(Path(str(engine.url.database)), to)
    return dump_postgresql(engine, to, os.environ)


@pytest.fixture
def restored(engine: Engine, new_database: NewDatabase, tmp_path: Path) -> Iterator[Engine]:
    """An empty place for what was copied to `tmp_path / "copy"`."""
    opened = open_engine(f"sqlite:///{tmp_path / 'copy'}" if engine.dialect.name == SQLITE else new_database())
    yield opened
    opened.dispose()


@pytest.mark.usefixtures("hospital")
def test_a_copy_has_what_its_source_had(engine: Engine, restored: Engine, tmp_path: Path) -> None:
    facts = copied(engine, tmp_path / "copy").tables
    if engine.dialect.name != SQLITE:
        restore_postgresql(restored, tmp_path / "copy", os.environ)
    assert facts == facts_of_tables(engine) == facts_of_tables(restored)
    assert facts["devices"].rows == 3
    assert send_again(restored, 0) == 0


@pytest.mark.usefixtures("hospital")
def test_what_is_counted_is_what_is_copied_while_others_write(engine: Engine, restored: Engine, tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 2
        while not stop.is_set():
            add_hospital(engine, f"sz.h{number:03d}", bed_count=1)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        facts = copied(engine, tmp_path / "copy").tables
    finally:
        stop.set()
        writer.join()
    if engine.dialect.name != SQLITE:
        restore_postgresql(restored, tmp_path / "copy", os.environ)
    assert facts == facts_of_tables(restored)
    assert facts_of_tables(engine)["hospitals"].rows >= facts["hospitals"].rows


def test_another_value_in_one_row_is_another_digest(engine: Engine, hospital: SmallHospital) -> None:
    before = facts_of_tables(engine)
    places.update_hospital(engine, ADA, hospital.patient["hospital_id"], {"name": "another"}, version=None)
    after = facts_of_tables(engine)
    assert {name for name in before if before[name] != after[name]} == {"hospitals", "write_log"}
    assert before["hospitals"].rows == after["hospitals"].rows


@pytest.mark.usefixtures("hospital")
def test_a_database_with_tables_is_not_restored_into(engine: Engine, tmp_path: Path) -> None:
    if engine.dialect.name == SQLITE:
        copied(engine, tmp_path / "copy")
        with pytest.raises(FileExistsError):
            copied(engine, tmp_path / "copy")
        return
    copied(engine, tmp_path / "copy")
    with pytest.raises(Conflict, match="nothing is overwritten"):
        restore_postgresql(engine, tmp_path / "copy", os.environ)
    with pytest.raises(Unavailable, match="not installed"):
        dump_without_tools(engine, tmp_path)


def dump_without_tools(engine: Engine, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", str(tmp_path))
        dump_postgresql(engine, tmp_path / "other", os.environ)


def test_a_damaged_file_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "damaged.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(IntegrityViolation, match="are damaged"):
        copy_sqlite(tmp_path / "damaged.db", tmp_path / "copy")
    with pytest.raises(IntegrityViolation):
        facts_of_sqlite(tmp_path / "damaged.db")
