"""What a job of erasure does in the business database, a step each: in one transaction with the mark that it is done.

What is done elsewhere is marked behind it (`note_done`): doing it again does no harm. Clause 9.3h.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, func, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from domain.erasures import State, Step
from domain.labels import WITHHELD
from runtime.sql.associations import forget_spans
from runtime.sql.engine import reading, writing
from runtime.sql.erasures import change_erasure, of_job
from runtime.sql.identity_tables import care_teams, sessions, users
from runtime.sql.patients import erase_patient, get_patient_row, tell_patient
from runtime.sql.records import Row, log_write
from runtime.sql.tables import alarm_events, alarms, associations, exports, limit_presets, outbox, patients

# what steps change or delete rows of a person in
OVERWRITTEN: Final = (
    patients, associations, alarms, alarm_events, limit_presets, care_teams, exports, outbox, users, sessions,
)  # fmt: skip
_CHUNK: Final = 500
_ERASED: Final = "erased"  # in the place of a patient's key
_PATIENT_KEY: Final = re.compile(r"\b[0-9a-f]{32}\b")


def sever(engine: Engine, row: Row, now_us: int) -> Row:
    """Step SEVER: take away what leads to or describes the person; what stays names nobody. Tells hosts. The row behind it."""
    author, key = of_job(row, now_us), row["patient_key"]
    with writing(engine) as connection:
        _wipe(connection)
        patient = get_patient_row(connection, key)
        theirs = select(alarms.c.alarm_id).where(alarms.c.patient_key == key)
        counts: dict[str, Any] = {
            "alarm_events": connection.execute(delete(alarm_events).where(alarm_events.c.alarm_id.in_(theirs))).rowcount,
            "alarms": connection.execute(
                update(alarms).where(alarms.c.patient_key == key).values(patient_key=None, note=None)
            ).rowcount,
            "associations": forget_spans(connection, author, key),
            "limit_presets": connection.execute(delete(limit_presets).where(limit_presets.c.patient_key == key)).rowcount,
            "care_teams": connection.execute(delete(care_teams).where(care_teams.c.patient_key == key)).rowcount,
            "exports": _forget_exports(connection, patient),
            "outbox": _forget_told(connection, key),
            "accounts": connection.execute(update(users).where(users.c.patient_key == key).values(name=users.c.id)).rowcount,
        }
        facts = {"sex": None, "age_years": None, "pregnant": False, "spo2_scale": 1, "ward_id": None, "bed_id": None}
        values = {**facts, "level": WITHHELD, "version": patients.c.version + 1}
        connection.execute(update(patients).where(patients.c.patient_key == key).values(values))
        tell_patient(connection, author, get_patient_row(connection, key))
        return _done(connection, row, Step.KEY, sql=counts)


def destroy_key(engine: Engine, row: Row, now_us: int, kids: Sequence[int]) -> Row:
    """Step KEY: name and reference go, and the person's data key is destroyed. `kids`: its number, for the certificate."""
    erase_patient(engine, of_job(row, now_us), row["patient_key"])
    with writing(engine) as connection:
        return _done(connection, row, Step.LAKE, keys=[f"{kid:016x}" for kid in kids] or row["counts"].get("keys", []))


def note_begun(engine: Engine, row: Row, **counts: Any) -> Row:
    """What a step that is done elsewhere leaves behind should it end before it is done."""
    with writing(engine) as connection:
        values = {"counts": {**row["counts"], **counts}}
        change_erasure(connection, row, **values)
        return row | values


def note_done(engine: Engine, row: Row, following: Step, **counts: Any) -> Row:
    """A step that was done elsewhere is behind us."""
    with writing(engine) as connection:
        return _done(connection, row, following, **counts)


def was_told(engine: Engine, row: Row, before_us: int) -> bool:
    """Whether what step SEVER told hosts of the person was in their stream before then. No host is asked for it."""
    with reading(engine) as connection:
        is_late = or_(outbox.c.published_us.is_(None), outbox.c.published_us > before_us)
        late = select(outbox.c.id).where(is_late, _names(connection, row["patient_key"])).limit(1)
        return connection.execute(late).first() is None


def settle(engine: Engine) -> bool:
    """Step SETTLE: what was overwritten leaves the database's files; False while others read it: try again.

    On PostgreSQL rows that a transaction under way may still see go with a later vacuum of its own.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name == "sqlite":
            is_busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
            return not is_busy
        for table in OVERWRITTEN:
            connection.exec_driver_sql(f"VACUUM {table.name}")
        return True


def certify(engine: Engine, row: Row, now_us: int, certificate: str, digest: str) -> Row:
    """Step CERTIFY: the certificate is kept, and its digest written where the access log takes it from."""
    with writing(engine) as connection:
        ended = {"state": State.ERASED.value, "step": None, "ended_us": now_us, "certificate": certificate}
        change_erasure(connection, row, **ended)
        detail = {"erasure": row["id"], "certificate": digest}
        log_write(connection, of_job(row, now_us), "patient.erased", row["patient_key"], detail)
        return row | ended


def patient_handle(engine: Engine, patient_key: str) -> tuple[str, int]:
    """The hospital of a patient, and the number that readings of their own bear."""
    with reading(engine) as connection:
        row = get_patient_row(connection, patient_key)
        return row["hospital_id"], row["handle"]


def _wipe(connection: Connection) -> None:
    """What this transaction deletes is overwritten with zeros, where the database is a file."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete=ON")


def _forget_exports(connection: Connection, patient: Row) -> int:
    """Take the patient out of what is noted of exports; of how many. The files themselves have left the platform.

    An export of nothing but theirs is forgotten; of others it stays noted that, and by whom.
    """
    key, handle = patient["patient_key"], patient["handle"]
    found = connection.execute(select(exports.c.id, exports.c.handles, exports.c.query)).yield_per(_CHUNK)
    mine = [row for row in found if handle in (row.handles or ()) or key in json.dumps(row.query)]
    for row in mine:
        others = [other for other in row.handles or () if other != handle]
        this, query = exports.c.id == row.id, json.dumps(row.query).replace(key, _ERASED)
        if others or _PATIENT_KEY.search(query):
            of_others = {"handles": row.handles and others, "query": json.loads(query)}
            connection.execute(update(exports).where(this).values(of_others))
        else:
            connection.execute(delete(exports).where(this))
    return len(mine)


def _forget_told(connection: Connection, key: str) -> int:
    """Delete what was told to hosts of the patient, and is in their stream."""
    told = delete(outbox).where(outbox.c.published_us.is_not(None), _names(connection, key))
    return connection.execute(told).rowcount


def _names(connection: Connection, key: str) -> ColumnElement[bool]:
    """The condition that a message to hosts is about the patient."""
    if connection.dialect.name == "sqlite":
        return func.instr(outbox.c.payload, key.encode()) > 0
    return func.strpos(func.encode(outbox.c.payload, "escape"), key) > 0


def _done(connection: Connection, row: Row, following: Step, **counts: Any) -> Row:
    values = {"step": following.value, "counts": {**row["counts"], **counts}}
    change_erasure(connection, row, **values)
    return row | values
