"""Erasures after a restore: what an older copy of the database or of the lake has again is erased again. Clause 9.3h.

Whom: `keys/destroyed.list` names them, by the keys of patients; a restore adds what newer backups know. A job begins at
once: the law and the grace were heard the first time, and the person's data key is gone already.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import Connection, Engine, insert, inspect, or_, select, update

from domain.erasures import AGAIN, OPEN, State, Step
from domain.labels import WITHHELD
from runtime.sealing import PATIENT_OWNER
from runtime.sql.engine import reading, writing
from runtime.sql.erasures import change_erasure, newest_erasure, of_job
from runtime.sql.life_tables import erasures
from runtime.sql.patients import get_patient_row
from runtime.sql.records import Author, Row, by_platform, log_write
from runtime.sql.tables import patients

_CHUNK: Final = 500
_BEHIND_LAKE: Final = [step.value for step in (Step.LOG, Step.SETTLE, Step.CERTIFY)]


def erase_again(engine: Engine, owners: Iterable[str], now_us: int) -> int:
    """Begin the jobs of persons whose data keys were destroyed and whose record is there again; of how many.

    For every start, before anything is served: from here on nobody is shown them. A second time begins nothing.
    """
    keys = [owner.removeprefix(PATIENT_OWNER) for owner in sorted(owners) if owner.startswith(PATIENT_OWNER)]
    author = by_platform("erased already, and restored from an older copy", now_us)
    return sum(_begin_again(engine, author, key) for key in _there_again(engine, keys))


def redo_from_lake(engine: Engine, since_us: int) -> int:
    """Let jobs that may have taken rows out of the lake since then do it again; how many.

    For a restore: the lake was copied before the database, which knows of steps that the copied lake has not seen.
    """
    if not inspect(engine).has_table(erasures.name):  # a copy from before there were jobs
        return 0
    running = (erasures.c.state == State.RUNNING.value) & erasures.c.step.in_(_BEHIND_LAKE)
    ended = (erasures.c.state == State.ERASED.value) & (erasures.c.ended_us >= since_us)
    values = {"state": State.RUNNING.value, "step": Step.LAKE.value, "ended_us": None}
    with writing(engine) as connection:
        return connection.execute(update(erasures).where(or_(running, ended)).values(values)).rowcount


def _there_again(engine: Engine, keys: list[str]) -> list[str]:
    found: list[str] = []
    with reading(engine) as connection:
        for start in range(0, len(keys), _CHUNK):
            mine = patients.c.patient_key.in_(keys[start : start + _CHUNK]) & patients.c.ref.is_not(None)
            found += connection.execute(select(patients.c.patient_key).where(mine)).scalars()
    return found


def _begin_again(engine: Engine, author: Author, key: str) -> bool:
    with writing(engine) as connection:
        patient, row = get_patient_row(connection, key), newest_erasure(connection, key)
        if row is not None and row["state"] == State.RUNNING:
            return False
        begun = {
            "state": State.RUNNING.value, "step": Step.SEVER.value, "begun_us": author.now_us, "counts": {AGAIN: True},
        }  # fmt: skip
        if row is not None and row["state"] in OPEN:
            change_erasure(connection, row, **begun)
            row |= begun
        else:
            row = _request(author, key, patient["level"]) | begun
            row["id"] = connection.execute(insert(erasures).values(row)).inserted_primary_key[0]  # type: ignore[index]
        _withhold(connection, author, patient)
        log_write(connection, of_job(row, author.now_us), "patient.erasure.begin", key, {"erasure": row["id"], "again": True})
        return True


def _withhold(connection: Connection, author: Author, patient: Row) -> None:
    """Of nobody's reach; and not in the hospital, where an older copy still has them: the job's first step tells hosts."""
    left_us = patient["discharged_us"] or max(author.now_us, patient["admitted_us"])
    values = {"level": WITHHELD, "version": patients.c.version + 1, "bed_id": None, "discharged_us": left_us}
    connection.execute(update(patients).where(patients.c.patient_key == patient["patient_key"]).values(values))


def _request(author: Author, key: str, level: Any) -> Row:
    return {
        "patient_key": key, "who": "vitalgrid", "reason": None, "requested_us": author.now_us, "due_us": author.now_us,
        "retained_until_us": author.now_us, "level_before": level, "counts": {}, "ended_us": None, "certificate": None,
    }  # fmt: skip
