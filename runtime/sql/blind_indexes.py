"""What patients are found by, while `blind` has several versions: every row under one of them, each of which is looked for.

A rotation makes the new version while nobody else writes, so whoever admits somebody afterwards knows of it; then rows are
indexed anew, some at a time. Nobody is there twice, under two versions: who admits looks under each in the same transaction.
The newest version that rows may be under is noted in the database: keys that are older than that would find nobody, and let
everybody be admitted a second time. Clauses 7.2c, 8.1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, Engine, select, update

from runtime.keys import KeyProvider
from runtime.sealing import BLIND, Place, Shut, index_front, index_version
from runtime.sql.alarm_projection import move_position
from runtime.sql.engine import reading, writing
from runtime.sql.records import Row
from runtime.sql.sealed import NEWEST_INDEX, index_versions, make_index, sealer_of
from runtime.sql.tables import patients

_AT_ONCE: Final = 500  # rows, while other writers wait


def rotate_blind(engine: Engine, keys: KeyProvider) -> int:
    """Make the next version of the key; its number. Rows are indexed under it by `index_anew`. Raises Unavailable, Conflict."""
    with writing(engine) as connection:
        version = keys.rotate(BLIND)
        move_position(connection, NEWEST_INDEX, version)
        return version


def index_anew(engine: Engine) -> int:
    """Index under the newest version what is under an older one; how many. Safe to end at any moment, and to begin again.

    A reference that does not open, damaged or without its data key, stays as it is. Raises KeyMissing when the keys are
    older than what is indexed, KeyGone.
    """
    with reading(engine) as connection:
        version = index_versions(connection)[0]
    if version == 1:
        return 0
    with writing(engine) as connection:  # noted before a row is under it
        move_position(connection, NEWEST_INDEX, version)
    count, after = 0, ""
    while True:
        older = patients.c.ref.is_not(None), patients.c.ref_index.not_like(f"{index_front(version)}%")
        query = select(patients).where(*older, patients.c.patient_key > after).order_by(patients.c.patient_key).limit(_AT_ONCE)
        with writing(engine) as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
            count += _index(connection, rows, version)
        if len(rows) < _AT_ONCE:
            return count
        after = rows[-1]["patient_key"]


def indexed_under(engine: Engine) -> Counter[int]:
    """How many references are indexed under each version."""
    with reading(engine) as connection:
        found = connection.execute(select(patients.c.ref_index).where(patients.c.ref.is_not(None))).scalars()
        return Counter(map(index_version, found))


def _index(connection: Connection, rows: Sequence[Row], version: int) -> int:
    sealer = sealer_of(connection)
    refs = sealer.open_many((Place("patients", "ref", row["patient_key"]), row["ref"]) for row in rows)
    opened = [(row, ref) for row, ref in zip(rows, refs, strict=True) if not isinstance(ref, Shut)]
    for row, ref in opened:
        values = {"ref_index": make_index(sealer, row["hospital_id"], ref, version)}
        connection.execute(update(patients).where(patients.c.patient_key == row["patient_key"]).values(values))
    return len(opened)
