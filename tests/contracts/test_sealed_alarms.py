"""What alarms say of a person where data at rest are sealed: unreadable in the database, never held up by a key."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from domain.alarms import AlarmEvent, AlarmSubject, AlertType, KnownInput, Outcome, Phase, Priority
from domain.permissions import everywhere
from runtime.sealing import DATA_KEYS_FILE, Sealer
from runtime.soft_keys import SoftKeys
from runtime.sql import alarms, patients, tables
from runtime.sql.engine import open_engine, reading
from runtime.sql.patients import NewPatient
from runtime.sql.sealed import DAMAGED, ERASED
from runtime.sql.sealed_alarms import WITHHELD
from tests.sql_fixtures import ADA, HOSPITAL, NOW_US, SmallHospital, later, make_sealer

pytestmark = [pytest.mark.clause("7.2c"), pytest.mark.clause("9.3")]

VALUE, LIMIT, LAST = 81.23456789, 50.98765432, 83.13579246


def said(alarm_id: str, patient_key: str | None, phase: Phase = Phase.START, at_s: int = 0) -> AlarmEvent:
    at_us = NOW_US + at_s * 1_000_000
    return AlarmEvent(
        event_id=f"{alarm_id}-{phase}-{at_s}", alarm_id=alarm_id, phase=phase, alert_type=AlertType.PHYSIOLOGICAL,
        priority=Priority.HIGH, rule="limit.high", rule_version=1, latching=True,
        subject=AlarmSubject(HOSPITAL, "icu", None, "mon-7", 1, patient_key=patient_key, metric="heart_rate"),
        onset_us=NOW_US, event_us=at_us, arrival_us=at_us, text=f"heart rate {VALUE} above {LIMIT}", value=VALUE, limit=LIMIT,
        inputs=(KnownInput("heart_rate", LAST, at_us, 0.5, 0), KnownInput("spo2", None, None, None, 0, used=False)),
    )  # fmt: skip


@pytest.fixture
def sealing(engine: Engine, tmp_path: Path) -> Iterator[Engine]:
    """The database as in security profile `cn`, with keys of its own that a test may destroy."""
    sealer = Sealer(SoftKeys(tmp_path / "keys"), make_sealer(tmp_path / "keys").data_keys, seals_values=True)
    opened = open_engine(engine.url.render_as_string(hide_password=False), sealer)
    yield opened
    opened.dispose()
    sealer.data_keys.close()


def admit(engine: Engine) -> str:
    return str(patients.admit_patient(engine, ADA, HOSPITAL, NewPatient("R-1", "Ada"))["patient_key"])


def stored(engine: Engine) -> str:
    """Both tables, as they lie there."""
    with reading(engine) as connection:
        return "\n".join(
            repr(tuple(row)) for table in (tables.alarms, tables.alarm_events) for row in connection.execute(select(table))
        )


def values_in(content: str) -> list[float]:
    return [value for value in (VALUE, LIMIT, LAST) if str(value) in content]


def test_values_are_unreadable_in_the_database_and_whole_for_who_asks(sealing: Engine, hospital: SmallHospital) -> None:
    key = admit(sealing)
    told = [said("a1", key), said("a2", None)]
    alarms.apply_alarm_events(sealing, list(enumerate(told, start=1)))
    assert values_in(stored(sealing)) == []
    for event in told:
        assert alarms.events_of(sealing, event.alarm_id) == [event]
        row = alarms.get_alarm(sealing, event.alarm_id)
        assert (row["text"], row["value"], row["limit_value"]) == (event.text, VALUE, LIMIT)
    assert {row["value"] for row in alarms.list_alarms(sealing, reach=everywhere("sz"), limit=9).rows} == {VALUE}
    answered = alarms.acknowledge(sealing, ADA, "a1", Outcome.ACTIONABLE, note="seen")
    assert (answered["value"], answered["note"]) == (VALUE, "seen")


@pytest.mark.parametrize("later_s", [60, -60])
def test_what_comes_later_is_sealed_anew_and_what_came_late_leaves_it_shut(
    sealing: Engine, hospital: SmallHospital, later_s: int
) -> None:
    key = admit(sealing)
    alarms.apply_alarm_events(sealing, [(1, said("a1", key))])
    alarms.apply_alarm_events(sealing, [(2, said("a1", key, Phase.UPDATE, later_s))])
    assert values_in(stored(sealing)) == []
    row = alarms.get_alarm(sealing, "a1")
    assert (row["value"], row["phase"]) == (VALUE, "update" if later_s > 0 else "start")


def test_what_lies_there_in_clear_is_shown_and_an_installation_that_does_not_seal_opens_what_is_sealed(
    engine: Engine, sealing: Engine, hospital: SmallHospital
) -> None:
    alarms.apply_alarm_events(engine, [(1, said("a1", None))])
    assert values_in(stored(engine)) == [VALUE, LIMIT, LAST]
    assert alarms.get_alarm(sealing, "a1")["value"] == VALUE
    assert alarms.events_of(sealing, "a1") == [said("a1", None)]
    alarms.apply_alarm_events(sealing, [(2, said("a2", None))])
    assert alarms.get_alarm(engine, "a2")["value"] is None  # sealed by other keys: shut, and an alarm all the same
    assert alarms.get_alarm(engine, "a2")["text"] == DAMAGED


@pytest.mark.clause("9.3h")
def test_an_erased_patients_alarms_say_nothing_any_more(sealing: Engine, hospital: SmallHospital) -> None:
    key = admit(sealing)
    alarms.apply_alarm_events(sealing, [(1, said("a1", key)), (2, said("a2", None))])
    patients.discharge_patient(sealing, later(60), key, NOW_US + 60_000_000, version=None)
    patients.erase_patient(sealing, later(70), key)
    row = alarms.get_alarm(sealing, "a1")
    assert (row["text"], row["value"], row["limit_value"], row["rule"]) == (ERASED, None, None, "limit.high")
    event = alarms.events_of(sealing, "a1")[0]
    assert (event.text, event.value, [one.value for one in event.inputs]) == (ERASED, None, [None, None])
    assert alarms.get_alarm(sealing, "a2")["value"] == VALUE  # of no patient
    alarms.apply_alarm_events(sealing, [(3, said("a3", key))])  # under way while the key was destroyed
    late = alarms.get_alarm(sealing, "a3")
    assert (late["text"], late["value"], late["limit_value"], late["patient_key"]) == (ERASED, None, None, None)
    assert [(one.text, one.value) for one in alarms.events_of(sealing, "a3")] == [(ERASED, None)]
    assert values_in(stored(sealing)) == []


@pytest.mark.clause("9.3h")
def test_a_destroyed_key_has_no_other_in_its_place(sealing: Engine, hospital: SmallHospital) -> None:
    """As in a restored database that does not know of the erasure yet."""
    key = admit(sealing)
    sealing.get_execution_options()["sealer"].data_keys.destroy([f"patient/{key}"])
    alarms.apply_alarm_events(sealing, [(1, said("a1", key)), (2, said("a2", None))])
    assert [alarms.get_alarm(sealing, one)["text"] for one in ("a1", "a2")] == [ERASED, said("a2", None).text]
    assert alarms.events_of(sealing, "a1")[0].text == ERASED
    assert values_in(stored(sealing)) == []


@pytest.mark.clause("6.3f")
def test_alarms_are_kept_and_shown_without_keys(sealing: Engine, hospital: SmallHospital, tmp_path: Path) -> None:
    key = admit(sealing)
    alarms.apply_alarm_events(sealing, [(1, said("a1", key))])
    sealing.get_execution_options()["sealer"].data_keys.close()
    for path in (tmp_path / "keys").glob(f"{DATA_KEYS_FILE}*"):
        path.unlink()
    alarms.apply_alarm_events(sealing, [(2, said("a2", key)), (3, said("a1", key, Phase.END, 60))])
    assert [alarms.get_alarm(sealing, one)["text"] for one in ("a1", "a2")] == [WITHHELD, WITHHELD]
    assert [event.text for event in alarms.events_of(sealing, "a1")] == [DAMAGED, WITHHELD]
    assert alarms.get_alarm(sealing, "a1")["state"] == "latched"
    assert values_in(stored(sealing)) == []


def test_an_older_store_of_data_keys_costs_no_alarm_its_values(
    sealing: Engine, hospital: SmallHospital, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(tmp_path / "keys", older)
    key = admit(sealing)
    sealer = Sealer.over(SoftKeys(older), older, seals_values=True)
    restored = open_engine(sealing.url.render_as_string(hide_password=False), sealer)
    alarms.apply_alarm_events(restored, [(1, said("a1", key)), (2, said("a2", None))])
    assert [alarms.get_alarm(restored, one)["value"] for one in ("a1", "a2")] == [VALUE, VALUE]
    assert values_in(stored(restored)) == []
    restored.dispose()
    sealer.data_keys.close()
