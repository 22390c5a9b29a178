"""Tokens, the write log and exports."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, update

from domain.errors import Conflict, InvalidInput, NotFound, Unauthenticated
from domain.principals import Role
from runtime.sql import access, users
from runtime.sql.engine import writing
from runtime.sql.identity_tables import users as user_table
from runtime.sql.records import Author, by_platform, note_write
from runtime.sql.write_log import untold_writes
from runtime.tokens import token_digest
from tests.sql_fixtures import ADA, ALL, NOW_US, later


@pytest.mark.clause("9.3b")
def test_tokens_are_listed_without_what_they_are(engine: Engine) -> None:
    token = access.create_token(engine, ADA, "planner")
    access.create_token(engine, ADA, "loader")
    access.revoke_token(engine, later(60), "loader")
    rows = access.list_tokens(engine, reach=ALL, region_id="sz", limit=9).rows
    assert [(row["name"], row["created_us"], row["revoked_us"]) for row in rows] == [
        ("loader", NOW_US, NOW_US + 60_000_000), ("planner", NOW_US, None),
    ]  # fmt: skip
    assert token not in str(rows)
    assert token_digest(token) not in str(rows)


def test_the_use_of_a_token_is_noted_to_the_minute(engine: Engine) -> None:
    token = access.create_token(engine, ADA, "planner")

    def last_used() -> int | None:
        return access.list_tokens(engine, reach=ALL, region_id="sz", limit=9).rows[0]["last_used_us"]

    assert access.authenticate(engine, token) == {"name": "planner", "role": "administrator", "place": None}
    assert last_used() is None
    for now_us, noted in ((5, 5), (6, 5), (60_000_004, 5), (60_000_005, 60_000_005)):
        access.authenticate(engine, token, now_us=NOW_US + now_us)
        assert last_used() == NOW_US + noted


@pytest.mark.clause("5.4a")
def test_a_token_that_was_revoked_opens_nothing_and_leaves_its_name_taken(engine: Engine) -> None:
    access.create_first_token(engine, Role.ADMINISTRATOR, now_us=NOW_US)
    token = access.create_token(engine, ADA, "planner")
    access.revoke_token(engine, ADA, "planner")
    for wrong in (token, token + "x", ""):
        with pytest.raises(Unauthenticated):
            access.authenticate(engine, wrong, now_us=NOW_US)
    with pytest.raises(NotFound):
        access.revoke_token(engine, ADA, "planner")
    with pytest.raises(Conflict):
        access.create_token(engine, ADA, "planner")
    with pytest.raises(InvalidInput):
        access.create_token(engine, ADA, "")


@pytest.mark.clause("9.3e")
def test_exports_are_on_record_the_newest_first(engine: Engine) -> None:
    for version in (7, 8):
        access.record_export(
            engine, later(version), lake_version=version, handles=[1], from_us=5, until_us=9, query={"metric": ["spo2"]}
        )
    page = access.list_exports(engine, limit=1)
    assert (page.rows[0]["lake_version"], page.rows[0]["who"], page.rows[0]["query"]) == (8, "ada", {"metric": ["spo2"]})
    assert [row["lake_version"] for row in access.list_exports(engine, limit=9, after=page.after).rows] == [7]
    (logged,) = access.list_writes(engine, limit=1).rows
    assert (logged["action"], logged["detail"]) == ("export.make", {"lake_version": 8})


@pytest.mark.clause("9.3e")
def test_whose_name_a_write_bears_is_known_by_kind_and_id(engine: Engine) -> None:
    access.create_token(engine, ADA, "planner")
    lina, fang = (users.create_user(engine, ADA, name, "stored")["id"] for name in ("li.na", "wang.fang"))
    with writing(engine) as connection:
        connection.execute(update(user_table).where(user_table.c.id == fang).values(patient_key="0" * 32))
        # as one could be called before, so that nobody can say who that was
        connection.execute(update(user_table).where(user_table.c.id == lina).values(name="sz.h001/mon-1"))
    users.create_user(engine, ADA, "li.na", "stored")
    names = ("planner", "li.na", fang, "os:root", "sz.h001/mon-7", "sz.h001/mon-1", "wang.fang", "nobody")
    for name in names:
        note_write(engine, Author(name, None, NOW_US), "ward.close", "w")
    note_write(engine, by_platform("by rule", NOW_US), "ward.close", "w")
    known = {row["who"]: (row["by_kind"], row["by_id"]) for row in untold_writes(engine, 99)}
    assert known == {
        "ada": (None, None),
        "planner": ("service", "planner"),
        "li.na": ("user", users.get_user(engine, "li.na", now_us=1)["id"]),
        fang: ("user", fang),
        "os:root": ("machine-account", "root"),
        "sz.h001/mon-7": ("device", "sz.h001/mon-7"),
        "sz.h001/mon-1": (None, None),
        "wang.fang": (None, None),
        "nobody": (None, None),
        "vitalgrid": ("platform", "vitalgrid"),
    }
