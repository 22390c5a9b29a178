"""Legal holds: of what is held nobody is erased, and the lake keeps it. On both databases. Clause 9.3h."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from domain.erasures import Held, State
from domain.errors import Conflict, InvalidInput, NotFound
from runtime.sql import erasures, holds, patients
from tests.contracts.test_sealed import REASON
from tests.erasing import Rig, ask
from tests.sql_fixtures import ADA, ALL, HOSPITAL, NOW_US, SmallHospital, later

pytestmark = pytest.mark.clause("9.3h")
DAY_US = 86_400_000_000


@pytest.mark.parametrize("kind", list(Held))
def test_nobody_of_what_is_held_is_erased_until_it_is_lifted(
    engine: Engine, hospital: SmallHospital, key: str, kind: Held
) -> None:
    target = {Held.PATIENT: key, Held.DEVICE: f"{HOSPITAL}/mon-7", Held.HOSPITAL: HOSPITAL}[kind]
    hold = holds.add_hold(engine, later(65, reason=REASON), kind, target, None)
    kept = holds.kept_readings(engine, NOW_US)
    expected = {
        Held.PATIENT: {patients.get_patient(engine, key)["handle"], hospital.monitor["handle"]},
        Held.DEVICE: {hospital.monitor["handle"]}, Held.HOSPITAL: set[int](),
    }  # fmt: skip
    assert (kept.handles, kept.hospitals) == (expected[kind], {HOSPITAL} if kind is Held.HOSPITAL else set())
    row = ask(engine, key)
    assert (row["state"], [one["id"] for one in row["holds"]]) == (State.RESTRICTED, [hold["id"]])
    assert erasures.begin_next(engine, NOW_US + DAY_US) is None
    assert holds.list_holds(engine, reach=ALL, limit=9).rows[0]["reason"] == REASON
    assert holds.lift_hold(engine, later(90), hold["id"])["lifted_by"] == "ada"
    assert holds.kept_readings(engine, NOW_US).is_nothing
    assert erasures.begin_next(engine, NOW_US + DAY_US) is not None


def test_a_hold_ends_by_itself_and_names_what_there_is(engine: Engine, key: str) -> None:
    holds.add_hold(engine, later(65), Held.PATIENT, key, NOW_US + DAY_US)
    ask(engine, key)
    assert erasures.begin_next(engine, NOW_US + DAY_US - 1) is None
    assert erasures.begin_next(engine, NOW_US + DAY_US) is not None
    for kind, target in ((Held.PATIENT, "f" * 32), (Held.DEVICE, f"{HOSPITAL}/none"), (Held.HOSPITAL, "sz.none")):
        with pytest.raises(NotFound):
            holds.add_hold(engine, ADA, kind, target, None)
    with pytest.raises(InvalidInput, match="future"):
        holds.add_hold(engine, ADA, Held.PATIENT, key, NOW_US)
    with pytest.raises(InvalidInput, match="reason"):
        holds.add_hold(engine, later(0, reason=None), Held.PATIENT, key, None)


def test_a_hold_that_comes_too_late_is_refused_or_says_for_whom(engine: Engine, rig: Rig, key: str) -> None:
    ask(engine, key)
    begun = erasures.begin_next(engine, rig.clock.now_us())
    assert begun is not None
    with pytest.raises(Conflict, match="being erased"):
        holds.add_hold(engine, later(90), Held.PATIENT, key, None)
    for kind, target in ((Held.DEVICE, f"{HOSPITAL}/mon-7"), (Held.HOSPITAL, HOSPITAL)):
        hold = holds.add_hold(engine, later(90), kind, target, None)
        assert hold["too_late_for"] == [begun["id"]]
        holds.lift_hold(engine, later(91), hold["id"])
    assert rig.run()["state"] == State.ERASED
    with pytest.raises(Conflict, match="were erased"):
        holds.add_hold(engine, later(9_000), Held.PATIENT, key, None)
    assert holds.add_hold(engine, later(9_000), Held.HOSPITAL, HOSPITAL, None)["too_late_for"] == []
