"""Requests to erase persons: made, taken back, and begun when nothing holds them up any more. Clause 9.3h.

While a request is open the patient's records are withheld: kept, and within nobody's reach (`domain.labels.WITHHELD`).
`runtime.erasure_job` carries them through.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, insert, or_, select, update

from domain.erasures import OPEN, WAITING, State, Step
from domain.errors import Conflict, IntegrityViolation, InvalidInput, NotFound, VitalgridError
from domain.labels import WITHHELD
from domain.principals import PLATFORM
from runtime.keys import KeyGone, KeyMissing
from runtime.sealing import Place, patient_owner
from runtime.sql.engine import reading, writing
from runtime.sql.holds import holds_of_patient
from runtime.sql.life_tables import erasures
from runtime.sql.records import Author, Row, by_platform, log_write, one
from runtime.sql.sealed import open_texts, shut_text
from runtime.sql.tables import patients

logger = logging.getLogger(__name__)

_STATES_WAITING: Final = [state.value for state in WAITING]
_STATES_OPEN: Final = [state.value for state in OPEN]
_CHUNK: Final = 500


def request_erasure(engine: Engine, author: Author, patient_key: str, *, retention_us: int, grace_us: int) -> Row:
    """Ask for a person's erasure; from now on their records are withheld. Asked for already, the open request is returned.

    Its job begins once the grace is over, the law lets it (`retention_us` from the discharge) and no hold stands.
    Raises NotFound, InvalidInput without a reason, Conflict for a patient who is in the hospital or was erased.
    """
    if author.reason is None:
        raise InvalidInput("an erasure needs a reason (X-Reason)")
    with writing(engine) as connection:
        patient = _patient(connection, patient_key)
        present = newest_erasure(connection, patient_key)
        if present is not None and present["state"] in _STATES_OPEN:
            return _shown(connection, present, patient, author.now_us)
        if patient["ref"] is None:
            raise Conflict(f"the data of patient {patient_key!r} were erased")
        if patient["discharged_us"] is None:
            raise Conflict(f"patient {patient_key!r} is in the hospital: care goes on, and with it what is recorded of them")
        until_us = patient["discharged_us"] + retention_us
        owner = patient_owner(patient["hospital_id"], patient_key)
        is_refused = until_us > author.now_us or holds_of_patient(connection, patient, author.now_us)
        row: Row = {
            "patient_key": patient_key, "state": (State.RESTRICTED if is_refused else State.REQUESTED).value,
            "who": author.who, "requested_us": author.now_us, "due_us": max(author.now_us + grace_us, until_us),
            "retained_until_us": until_us, "level_before": patient["level"], "step": None, "counts": {},
            "begun_us": None, "ended_us": None, "certificate": None,
        }  # fmt: skip
        row["reason"] = shut_text(connection, owner, _place(row), author.reason)
        key = connection.execute(insert(erasures).values(row)).inserted_primary_key
        assert key is not None
        _set_level(connection, patient, WITHHELD)
        detail = {"erasure": key[0], "state": row["state"], "due_us": row["due_us"]}
        log_write(connection, author, "patient.erasure.request", patient_key, detail, about=owner)
        return _shown(connection, {"id": key[0], **row}, patient, author.now_us)


def withdraw_erasure(engine: Engine, author: Author, patient_key: str) -> Row:
    """Take a request back before its job begins: the records are served as before. Raises NotFound, Conflict."""
    with writing(engine) as connection:
        row = newest_erasure(connection, patient_key)
        if row is None:
            raise NotFound(f"nobody asked to erase patient {patient_key!r}")
        if row["state"] not in _STATES_WAITING:
            raise Conflict(f"erasure {row['id']} is {row['state']}: it cannot be taken back")
        patient = _patient(connection, patient_key)
        _end(connection, author, row, patient)
        return _shown(connection, newest_erasure(connection, patient_key) or row, patient, author.now_us)


def came_back(connection: Connection, author: Author, patient: Row) -> int | None:
    """The patient is admitted again: an open request is over, for care goes on. Their level from now on.

    Raises Conflict while a job runs: it is about to end, and then they are admitted as somebody new.
    """
    row = newest_erasure(connection, patient["patient_key"])
    if row is None or row["state"] not in _STATES_OPEN:
        return _level(patient)
    if row["state"] == State.RUNNING:
        raise Conflict("the data of that patient are being erased: admit them in a minute, as somebody new")
    _end(connection, author, row, patient)
    level: int | None = row["level_before"]
    return level


def get_erasure(engine: Engine, patient_key: str, now_us: int) -> Row:
    """The newest request about a patient, with `holds` and `refused_until_us`. Raises NotFound."""
    with reading(engine) as connection:
        row = newest_erasure(connection, patient_key)
        if row is None:
            raise NotFound(f"nobody asked to erase patient {patient_key!r}")
        return _shown(connection, row, _patient(connection, patient_key), now_us)


def begin_next(engine: Engine, now_us: int) -> Row | None:
    """The job that goes on, or the next that is due, begun now: from here on it cannot be taken back. None: nothing is due."""
    with writing(engine) as connection:
        running = select(erasures).where(erasures.c.state == State.RUNNING.value).order_by(erasures.c.id).limit(1)
        if (found := connection.execute(running).mappings().one_or_none()) is not None:
            return dict(found)
        due = select(erasures).where(erasures.c.state.in_(_STATES_WAITING), erasures.c.due_us <= now_us)
        for row in [dict(row) for row in connection.execute(due.order_by(erasures.c.id)).mappings()]:
            patient = _patient(connection, row["patient_key"])
            if holds_of_patient(connection, patient, now_us):
                if row["state"] != State.RESTRICTED:
                    change_erasure(connection, row, state=State.RESTRICTED.value)
                continue
            begun = {"state": State.RUNNING.value, "step": Step.SEVER.value, "begun_us": now_us}
            change_erasure(connection, row, **begun)
            log_write(connection, of_job(row, now_us), "patient.erasure.begin", row["patient_key"], {"erasure": row["id"]})
            return row | begun
    return None


def has_certificates(engine: Engine) -> bool:
    """Whether anything was certified yet."""
    with reading(engine) as connection:
        return connection.execute(select(erasures.c.id).where(erasures.c.certificate.is_not(None)).limit(1)).first() is not None


def request_by_rule(engine: Engine, now_us: int, *, retention_us: int, most: int = 100, is_dry: bool = False) -> int:
    """Ask for the erasure of persons whose record has been kept as long as the law wants, of `most` at once; of how many.

    One who came back meanwhile, or whose data key is damaged, holds up nobody else, however many they are. `is_dry`: of how
    many it would be asked, however many that are.
    """
    with reading(engine) as connection:
        asked = select(erasures.c.patient_key).where(erasures.c.state.in_(_STATES_OPEN))
        over = select(patients.c.patient_key).where(
            patients.c.discharged_us <= now_us - retention_us, patients.c.ref.is_not(None), patients.c.patient_key.not_in(asked)
        )
        keys = connection.execute(over.order_by(patients.c.discharged_us, patients.c.patient_key)).scalars().all()
    if is_dry:
        return len(keys)
    author = Author(PLATFORM, "kept as long as the law wants", now_us)
    failed: dict[str, VitalgridError] = {}
    count = 0
    for key in keys:
        try:
            request_erasure(engine, author, key, retention_us=retention_us, grace_us=0)
        except (Conflict, KeyGone, KeyMissing, IntegrityViolation) as error:
            failed[key] = error
        else:
            count += 1
            if count == most:
                break
    if failed:
        key, first = next(iter(failed.items()))
        logger.error("the erasure of %s patients is not asked for; of %s: %s", len(failed), key, first)
    return count


def change_erasure(connection: Connection, row: Row, **values: Any) -> None:
    """Part of a transaction. Raises Conflict when another process has done the step of `row` meanwhile: once is enough."""
    at_step = erasures.c.step.is_(None) if row["step"] is None else erasures.c.step == row["step"]
    same = (erasures.c.id == row["id"]) & at_step & (erasures.c.state == row["state"])
    if not connection.execute(update(erasures).where(same).values(values)).rowcount:
        raise Conflict(f"somebody else goes on with erasure {row['id']}")


def of_job(row: Row, now_us: int) -> Author:
    """The platform, as it carries a request through."""
    return by_platform(f"erasure {row['id']}", now_us)


def _end(connection: Connection, author: Author, row: Row, patient: Row) -> None:
    change_erasure(connection, row, state=State.WITHDRAWN.value, ended_us=author.now_us)
    _set_level(connection, patient, row["level_before"])
    owner = patient_owner(patient["hospital_id"], patient["patient_key"])
    log_write(
        connection, author, "patient.erasure.withdraw", patient["patient_key"], {"erasure": row["id"]}, about=owner
    )  # fmt: skip


def _level(patient: Row) -> int | None:
    return None if patient["level"] == WITHHELD else patient["level"]


def _set_level(connection: Connection, patient: Row, level: int | None) -> None:
    values = {"level": level, "version": patients.c.version + 1}
    connection.execute(update(patients).where(patients.c.patient_key == patient["patient_key"]).values(values))


def _patient(connection: Connection, patient_key: str) -> Row:
    return one(connection, select(patients).where(patients.c.patient_key == patient_key), f"patient {patient_key!r}")


def erased_among(connection: Connection, patient_keys: Sequence[str]) -> set[str]:
    """Those of these patients who were erased, or whose erasure cannot be taken back any more."""
    running = select(erasures.c.patient_key).where(erasures.c.state == State.RUNNING.value)
    is_gone = or_(patients.c.ref.is_(None), patients.c.patient_key.in_(running))
    found: set[str] = set()
    for start in range(0, len(patient_keys), _CHUNK):
        some = patients.c.patient_key.in_(patient_keys[start : start + _CHUNK])
        found |= set(connection.execute(select(patients.c.patient_key).where(some, is_gone)).scalars())
    return found


def newest_erasure(connection: Connection, patient_key: str) -> Row | None:
    """As it is stored."""
    query = select(erasures).where(erasures.c.patient_key == patient_key).order_by(erasures.c.id.desc()).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else dict(row)


def _shown(connection: Connection, row: Row, patient: Row, now_us: int) -> Row:
    """With what holds it up."""
    holds = holds_of_patient(connection, patient, now_us) if row["state"] in _STATES_WAITING else []
    opened = open_texts(connection, [row], "reason", [_place(row)])[0]
    is_kept = row["state"] in _STATES_WAITING and row["retained_until_us"] > now_us
    return opened | {
        "hospital_id": patient["hospital_id"], "refused_until_us": row["retained_until_us"] if is_kept else None,
        "holds": [{"id": hold["id"], "until_us": hold["until_us"]} for hold in holds],
    }  # fmt: skip


def _place(row: Row) -> Place:
    return Place("erasures", "reason", f"{row['patient_key']}|{row['requested_us']}")
