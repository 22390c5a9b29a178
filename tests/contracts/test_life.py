"""A person is erased, or restricted in place of that, on both databases, however often the job is ended. Clauses 9.3a, 9.3h."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, Delete, Engine, Update, event, select

from domain.erasures import State, Step
from domain.errors import Conflict, IntegrityViolation, InvalidInput, NotFound
from domain.labels import WITHHELD
from domain.messages import DeviceAssociated, PatientAdmitted
from domain.permissions import Level, everywhere
from runtime.data_keys import DESTROYED, Owner, destroyed_in
from runtime.erasure_certificates import certificate_signer, digest_of, own_vkeys, verify_bundle
from runtime.erasure_job import UNCOUNTED, ErasureJob
from runtime.keys import KeyMissing, make_missing
from runtime.lake import ReadingQuery
from runtime.log_events import certified_by, emptied_of, events_between
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LOG_KEYS
from runtime.sealing import Sealer
from runtime.soft_keys import SoftKeys
from runtime.sql import access, alarms, erasure_steps, erasures, locating, patients, sessions, tables, users
from runtime.sql.engine import reading
from runtime.sql.patients import NewPatient
from runtime.sql.reading_reach import Judged, judge
from runtime.sql.records import Row
from runtime.sql.restored_erasures import redo_from_lake
from runtime.sql.sessions import SessionRules
from tests.contracts.test_sealed import CANARY, NAME, REF
from tests.erasing import LEFT_US, Rig, ask, plant
from tests.sql_fixtures import ADA, ALL, HOSPITAL, NOW_US, SQLITE, SmallHospital, later, told

DAY_US = 86_400_000_000
YEARS_US = 30 * 365 * DAY_US


def seen(engine: Engine) -> set[str]:
    return {row["patient_key"] for row in patients.list_patients(engine, reach=ALL, clear=ALL, limit=99).rows}


# --- restriction in place of erasure ---


@pytest.mark.clause("9.3h")
def test_while_the_law_wants_it_kept_erasure_is_refused_and_nobody_is_served(engine: Engine, key: str) -> None:
    row = ask(engine, key, retention_us=YEARS_US)
    assert (row["state"], row["refused_until_us"], row["due_us"]) == (State.RESTRICTED, LEFT_US + YEARS_US, LEFT_US + YEARS_US)
    assert erasures.begin_next(engine, LEFT_US + YEARS_US - 1) is None
    assert key not in seen(engine)
    assert patients.list_patients(engine, reach=ALL, clear=ALL, limit=9, text=f"{NAME} 2").rows == []
    assert patients.list_associations(engine, reach=ALL, patient_key=key) == []
    for found in (locating.patient(engine, key), locating.alarm(engine, "a1")):
        assert found is not None
        assert found.level is None
        assert not everywhere("sz").holds(found)
    assert "a1" not in {one["alarm_id"] for one in alarms.list_alarms(engine, reach=ALL, limit=99).rows}
    to_erase = locating.patient_to_erase(engine, key)
    assert to_erase is not None
    assert to_erase.level is Level.IDENTIFYING
    assert ask(engine, key, 80, retention_us=YEARS_US)["id"] == row["id"]  # asked again
    begun = erasures.begin_next(engine, LEFT_US + YEARS_US)
    assert begun is not None
    assert begun["step"] == Step.SEVER


@pytest.mark.clause("9.3h")
@pytest.mark.parametrize("named", [True, False])
def test_readings_of_who_is_restricted_are_within_nobodys_reach(
    engine: Engine, hospital: SmallHospital, key: str, named: bool
) -> None:
    own, monitor = patients.get_patient(engine, key)["handle"], hospital.monitor["handle"]
    with reading(engine) as connection:
        assert judge(connection, ALL, [own, monitor] if named else None) == Judged()
    ask(engine, key, retention_us=YEARS_US)
    with reading(engine) as connection:
        judged = judge(connection, ALL, [own, monitor] if named else None)
    assert (judged.closed, judged.partly) == ({own}, {monitor})
    assert (monitor, key) not in judged.allowed
    assert (monitor, None) in judged.allowed  # what it measured of nobody


@pytest.mark.clause("9.3h")
def test_a_request_that_is_taken_back_leaves_everything_as_it_was(engine: Engine, key: str) -> None:
    patients.update_patient(engine, ADA, key, {"level": 5}, version=None)
    ask(engine, key, grace_us=DAY_US)
    assert key not in seen(engine)
    assert erasures.begin_next(engine, NOW_US + DAY_US) is None  # within the grace
    assert erasures.withdraw_erasure(engine, later(90), key)["state"] == State.WITHDRAWN
    assert patients.get_patient(engine, key)["level"] == 5
    assert patients.get_patient(engine, key)["name"] == f"{NAME} 2"
    assert key in seen(engine)
    with pytest.raises(Conflict, match="withdrawn"):
        erasures.withdraw_erasure(engine, later(91), key)
    assert erasures.begin_next(engine, NOW_US + 9 * DAY_US) is None


@pytest.mark.clause("9.3h")
def test_who_is_in_the_hospital_is_neither_erased_nor_restricted(engine: Engine, hospital: SmallHospital) -> None:
    here = hospital.patient["patient_key"]
    with pytest.raises(Conflict, match="care goes on"):
        ask(engine, here)
    with pytest.raises(InvalidInput, match="X-Reason"):
        erasures.request_erasure(engine, later(1, reason=None), here, retention_us=0, grace_us=0)
    with pytest.raises(NotFound):
        ask(engine, "f" * 32)


@pytest.mark.clause("9.3h")
def test_who_comes_back_is_served_again_and_the_request_is_over(engine: Engine, key: str) -> None:
    ask(engine, key, retention_us=YEARS_US)
    found = locating.patient_of_ref(engine, HOSPITAL, REF)
    assert found is not None
    assert found.level is Level.IDENTIFYING
    assert patients.admit_patient(engine, later(100), HOSPITAL, NewPatient(REF, NAME))["patient_key"] == key
    assert erasures.get_erasure(engine, key, NOW_US)["state"] == State.WITHDRAWN
    assert key in seen(engine)
    assert erasures.begin_next(engine, LEFT_US + 2 * YEARS_US) is None


# --- the job ---


def left_of(engine: Engine, key: str) -> list[str]:
    """Tables in which the patient's key still stands, but for those whose rows tell of the erasure."""
    found = []
    with reading(engine) as connection:
        for name, table in tables.metadata.tables.items():
            rows = connection.execute(select(table)).all()
            if any(key in repr(tuple(row)) for row in rows):
                found.append(name)
    return sorted(found)


@pytest.mark.clause("9.3h")
def test_a_person_is_erased_everywhere_and_a_certificate_proves_it(
    engine: Engine, hospital: SmallHospital, sealer: Sealer, rig: Rig, key: str
) -> None:
    handle = plant(engine, rig, key)
    for_hosts = len(told(engine, DeviceAssociated))
    ask(engine, key)
    row = rig.run()
    assert row["state"] == State.ERASED
    assert left_of(engine, key) == ["erasures", "outbox", "patients", "write_log"]
    tombstone = patients.get_patient(engine, key)
    assert {name: tombstone[name] for name in ("name", "sex", "age_years", "ward_id", "bed_id", "level", "erased")} == {
        "name": None, "sex": None, "age_years": None, "ward_id": None, "bed_id": None, "level": WITHHELD, "erased": True,
    }  # fmt: skip
    assert handle not in rig.lake.read(ReadingQuery())["handle"].to_list()
    assert len(rig.lake.read(ReadingQuery())) == 60
    assert sealer.data_keys.is_destroyed(f"patient/{key}")
    assert f"patient/{key}" in destroyed_in(sealer.data_keys.folder / DESTROYED)
    assert told(engine, DeviceAssociated)[-1] == DeviceAssociated(HOSPITAL, hospital.monitor["handle"], [])
    assert len(told(engine, DeviceAssociated)) > for_hosts - 3
    last = told(engine, PatientAdmitted)[-1]
    assert isinstance(last, PatientAdmitted)
    assert (last.patient_key, last.age_years, last.bed_id) == (key, None, None)
    assert alarms.get_alarm(engine, "a1")["patient_key"] is None
    assert rig.job.once() is None
    with pytest.raises(Conflict, match="erased"):
        ask(engine, key, 5_000)
    text = rig.verify(rig.bundle(key))
    assert f"patient: {key}\n" in text
    assert f"associations {row['counts']['sql']['associations']}," in text
    assert row["counts"]["sql"] == {
        "accounts": 0, "alarm_events": 1, "alarms": 1, "associations": row["counts"]["sql"]["associations"], "care_teams": 0,
        "exports": 2, "limit_presets": 0, "outbox": 0,
    }  # fmt: skip
    assert "rows 60" in text
    with reading(engine) as connection:
        left = connection.execute(select(tables.exports.c.handles, tables.exports.c.query)).all()
    assert ([handle + 1], {"url": "/readings?patient=erased"}) in [tuple(row) for row in left]
    assert CANARY not in text


@pytest.mark.clause("9.3h")
@pytest.mark.parametrize("handles", [None, []])
def test_what_is_noted_of_an_export_goes_if_it_names_nobody_else(
    engine: Engine, rig: Rig, key: str, handles: list[int] | None
) -> None:
    other = "f" * 32
    urls = [f"/r?patient={key}", f"/r?patient={other}&patient={key}", f"/r?patient={other}"]
    noted = [
        access.record_export(
            engine, ADA, lake_version=1, handles=handles, from_us=None, until_us=None, query={"url": url, "rows": 0}
        )
        for url in urls
    ]  # fmt: skip
    ask(engine, key)
    rig.run()
    left = {row["id"]: (row["handles"], row["query"]["url"]) for row in access.list_exports(engine, limit=9).rows}
    assert {number: left.get(number) for number in noted} == {
        noted[0]: None, noted[1]: (handles, f"/r?patient={other}&patient=erased"), noted[2]: (handles, urls[2]),
    }  # fmt: skip


class Killed(BaseException):
    pass


@pytest.mark.clause("9.3h")
@pytest.mark.parametrize("step", list(Step))
@pytest.mark.parametrize("is_marked", [False, True])
def test_a_job_that_is_killed_at_any_step_goes_on_and_ends_once(
    engine: Engine, rig: Rig, key: str, step: Step, is_marked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the step's mark, with all of its effects done outside of that transaction, or right behind it."""
    plant(engine, rig, key)
    ask(engine, key)
    killed: list[str] = []

    def change(connection: Connection, row: Row, **values: Any) -> None:
        is_now = row["step"] == step and "step" in values and not killed
        if is_now and not is_marked:
            killed.append(row["step"])
            raise Killed
        erasures.change_erasure(connection, row, **values)

    def die_behind(row: Row) -> Row | None:
        following = steps[step](row)
        if following is not None and not killed:
            killed.append(step)
            raise Killed
        return following

    steps = rig.job._steps()
    monkeypatch.setattr(erasure_steps, "change_erasure", change)
    if is_marked:
        monkeypatch.setattr(ErasureJob, "_steps", lambda _: {**steps, step: die_behind})
    for _ in range(3):  # until it gets there: it waits for the log and for hosts
        try:
            rig.job.once()
        except Killed:
            break
        rig.pass_on()
    rig.log()
    assert killed == [step]
    row = erasures.get_erasure(engine, key, NOW_US)
    if row["state"] != State.ERASED:
        row = rig.run()
    assert row["state"] == State.ERASED
    is_uncounted = step in (Step.LAKE, Step.SETTLE) and not is_marked
    assert row["counts"]["lake"].get(UNCOUNTED) == (1 if is_uncounted else None)
    assert row["counts"]["lake"]["rows"] == (0 if step == Step.LAKE and is_uncounted else 60)
    assert row["counts"]["sql"]["associations"] > 0
    assert len(row["counts"]["keys"]) == 1
    text = rig.verify(rig.bundle(key))
    assert (f"{UNCOUNTED} 1" in text) == is_uncounted
    written = [one["action"] for one in access.list_writes(engine, limit=200).rows if one["target"] == key]
    assert written.count("patient.erase") == written.count("patient.erased") == 1


@pytest.mark.clause("9.3h")
def test_of_two_processes_at_one_step_one_does_it(engine: Engine, rig: Rig, key: str) -> None:
    ask(engine, key)
    row = erasures.begin_next(engine, rig.clock.now_us())
    assert row is not None
    erasure_steps.sever(engine, row, rig.clock.now_us())
    with pytest.raises(Conflict, match="somebody else"):
        erasure_steps.sever(engine, row, rig.clock.now_us())
    assert rig.run()["counts"]["sql"]["associations"] > 0


@pytest.mark.clause("9.3h")
def test_the_log_keeps_commitments_and_the_tree_and_loses_what_was_said_of_the_person(
    engine: Engine, hospital: SmallHospital, rig: Rig, key: str
) -> None:
    rig.log()
    before = {event.id: event for event in events_between(rig.folder / "audit", 0, 999)}
    ask(engine, key)
    rig.run()
    rig.log()
    after = {event.id: event for event in events_between(rig.folder / "audit", 0, 999)}
    assert {name: after[name].entry for name in before} == {name: event.entry for name, event in before.items()}
    about = {name for name, event in before.items() if key.encode() in (event.event or b"")}
    assert about
    gone = {name for name in before if after[name].event is None}
    assert gone == about
    assert all(after[name].salt is None for name in gone)
    counts = emptied_of(rig.folder / "audit", key)
    assert counts is not None
    assert counts.emptied == len(gone)
    said = [event for name, event in after.items() if event.event and name.startswith("emptied-")]  # the log, by itself
    assert all(key.encode() in (event.event or b"") for event in said)
    kept = [event for event in after.values() if event.event and key.encode() in event.event and event not in said]
    assert len(kept) == counts.kept >= 3  # asked for, begun, erased, certified
    rig.keeper.close()
    rig.keeper = LogKeeper.open(rig.folder / "audit", rig.log_signer, lambda: b"s" * 32)  # verified whole


@pytest.mark.clause("9.3h")
def test_a_certificate_that_was_changed_or_belongs_to_another_does_not_verify(engine: Engine, rig: Rig, key: str) -> None:
    ask(engine, key)
    rig.run()
    good = rig.bundle(key)
    assert rig.verify(good)
    parts = json.loads(good)
    for name, value in (
        ("certificate", parts["certificate"].replace("rows", "r0ws")), ("event", "e30="), ("salt", parts["salt"][:-4] + "AAA="),
        ("entry", "e30="), ("proof", parts["proof"].replace("index ", "index 1")), ("certificate", "no note"), ("unknown", 1),
    ):  # fmt: skip
        with pytest.raises((IntegrityViolation, InvalidInput, msgspec.MsgspecError)):
            rig.verify(json.dumps({**parts, name: value}).encode())
    strangers = SoftKeys(rig.folder / "strangers")
    make_missing(strangers, [*LOG_KEYS])
    other = certificate_signer(strangers, "vitalgrid/sz")
    other.make_keys()
    with pytest.raises(IntegrityViolation, match="nobody who is known"):
        verify_bundle(good, own_vkeys(other), [one.vkey for one in rig.log_signer.public_keys()])


@pytest.mark.clause("9.3h")
def test_a_certificate_is_shown_with_the_logs_word_of_it_and_never_with_that_of_an_earlier_one(
    engine: Engine, rig: Rig, key: str
) -> None:
    ask(engine, key)
    first = rig.run()["certificate"]
    assert rig.verify(rig.bundle(key))
    assert redo_from_lake(engine, 0) == 1
    rig.clock.advance(seconds=9)
    second = rig.run()["certificate"]
    assert second != first
    assert certified_by(rig.folder / "audit", key, digest_of(second)) is None  # the log has the first one alone
    assert rig.verify(rig.bundle(key))


@pytest.mark.clause("9.3h")
def test_nothing_of_an_erased_person_is_in_the_databases_file(engine: Engine, rig: Rig, key: str) -> None:
    if engine.dialect.name != SQLITE:
        pytest.skip("PostgreSQL's files are its own")
    mine = tables.associations.c.patient_key == key
    with reading(engine) as connection:
        reasons = connection.execute(select(tables.associations.c.reason).where(mine)).scalars().all()
    ask(engine, key)
    rig.run()
    files = [Path(f"{engine.url.database}{suffix}") for suffix in ("", "-wal")]
    content = b"".join(path.read_bytes() for path in files if path.exists())
    assert reasons
    for text in (*reasons, CANARY):
        assert text.encode() not in content


@pytest.mark.clause("9.3h")
def test_every_table_that_an_erasure_overwrites_is_settled(engine: Engine, rig: Rig, key: str) -> None:
    plant(engine, rig, key)
    user = users.create_user(engine, ADA, "her.own.name", "stored", patient_key=key)
    sessions.begin_session(
        engine, user["id"], checked="stored", address="::1", now_us=NOW_US, rules=SessionRules(DAY_US, DAY_US)
    )
    changed: set[str] = set()

    def note(_connection: Connection, statement: object, *_: object) -> None:
        if isinstance(statement, Update | Delete):
            changed.add(statement.table.name)  # type: ignore[attr-defined]

    ask(engine, key)
    event.listen(engine, "before_execute", note)
    row = rig.job.once()
    event.remove(engine, "before_execute", note)
    assert row is not None
    assert row["step"] == Step.LOG
    assert {"users", "sessions"} < changed
    assert changed - {"erasures"} <= {table.name for table in erasure_steps.OVERWRITTEN}


@pytest.mark.clause("9.3h")
def test_alarms_that_the_stream_tells_late_or_again_come_back_without_the_person(engine: Engine, rig: Rig, key: str) -> None:
    told_before = alarms.events_of(engine, "a1")
    assert told_before[0].subject.patient_key == key
    ask(engine, key)
    row = erasures.begin_next(engine, rig.clock.now_us())
    assert row is not None
    erasure_steps.sever(engine, row, rig.clock.now_us())
    again = [*told_before, msgspec.structs.replace(told_before[0], alarm_id="late", event_id="late")]
    alarms.apply_alarm_events(engine, list(enumerate(again, start=100)))
    rig.run()
    alarms.apply_alarm_events(engine, [(200, msgspec.structs.replace(again[-1], event_id="later", event_us=NOW_US + 9))])
    assert left_of(engine, key) == ["erasures", "outbox", "patients", "write_log"]
    assert [event.value for event in alarms.events_of(engine, "late")] == [None, None]
    assert alarms.get_alarm(engine, "late")["patient_key"] is None


@pytest.mark.clause("9.3h")
def test_one_whose_data_key_is_lost_holds_up_nobody_elses_erasure_by_rule(
    engine: Engine, hospital: SmallHospital, rig: Rig, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = hospital.patient["patient_key"]
    patients.discharge_patient(engine, later(61), here, LEFT_US - 1, version=None)  # first in the order
    seal = Sealer.seal

    def sealed(self: Sealer, owner: Owner, *arguments: Any) -> str:
        if owner.name == f"patient/{here}":
            raise KeyMissing("the data key is not in the store")
        return seal(self, owner, *arguments)

    monkeypatch.setattr(Sealer, "seal", sealed)
    assert erasures.request_by_rule(engine, LEFT_US + YEARS_US, retention_us=YEARS_US, most=1) == 1
    assert erasures.get_erasure(engine, key, NOW_US)["state"] == State.REQUESTED


@pytest.mark.clause("9.3h")
def test_a_person_whose_time_is_over_is_erased_by_rule(engine: Engine, rig: Rig, key: str) -> None:
    assert erasures.request_by_rule(engine, LEFT_US + YEARS_US - 1, retention_us=YEARS_US) == 0
    assert erasures.request_by_rule(engine, LEFT_US + YEARS_US, retention_us=YEARS_US, is_dry=True) == 1
    assert erasures.request_by_rule(engine, LEFT_US + YEARS_US, retention_us=YEARS_US) == 1
    assert erasures.request_by_rule(engine, LEFT_US + YEARS_US, retention_us=YEARS_US) == 0
    rig.clock.advance(seconds=YEARS_US / 1e6)
    assert rig.run()["who"] == "vitalgrid"
