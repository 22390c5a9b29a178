"""Care teams of an hour in which the platform's clock was ahead, once it is set back. On both databases. Clause 9.1a."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from runtime.sql import users
from runtime.sql.engine import reading
from runtime.sql.grants import join_team, leave_team, treated_by
from tests.sql_fixtures import ADA, NOW_US, SmallHospital, later


@pytest.mark.clause("9.1a")
def test_who_joined_in_that_hour_treats_and_who_left_in_it_does_not(engine: Engine, hospital: SmallHospital) -> None:
    key = hospital.patient["patient_key"]
    ids = {name: users.create_user(engine, ADA, name, "a stored password")["id"] for name in ("li.na", "wang.wu")}
    for name in ids:
        join_team(engine, later(3_600), key, name, None)
    leave_team(engine, later(3_700), key, "wang.wu")
    with reading(engine) as connection:
        treating = {name for name, user_id in ids.items() if key in treated_by(connection, user_id, now_us=NOW_US)}
    assert treating == {"li.na"}
