"""Everybody sees what is theirs: lists, pages, counts, searches, readings, and by what names patients appear."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from domain.instants import from_us
from domain.principals import Role
from domain.readings import ReadingBatch
from runtime.batches import NewMessage
from runtime.sql import associations, patients
from runtime.sql.places import get_hospital
from tests.sql_fixtures import ADA, ALL, NOW_US, later
from tests.unit.api.conftest import client_of
from tests.unit.api.wards import NAMES, NOTE, Wards, ask, open_wards

REFUSED: set[str] = {"403"}
SEEN: dict[str, dict[str, set[str]]] = {
    "patients": {"doctor": {"p1", "p2"}, "nurse": {"p1"}, "team": {"p2"}, "patient": {"p1"}, "privacy": {"p1", "p2", "p3"},
                 "engineer": REFUSED, "station": REFUSED, "commission": REFUSED, "nobody": REFUSED},
    "devices": {"doctor": {"mon-1", "mon-2", "free-1"}, "nurse": {"mon-1", "free-1"}, "team": set(), "patient": REFUSED,
                "engineer": {"mon-1", "mon-2", "free-1"}, "commission": {"mon-1", "mon-2", "free-1"}, "nobody": REFUSED},
    "alarms": {"doctor": {"mon-1", "mon-2", "free-1"}, "nurse": {"mon-1", "free-1"}, "team": {"mon-2"}, "patient": {"mon-1"},
               "engineer": {"free-1"}, "station": {"mon-1", "free-1"}, "commission": {"free-1"}, "nobody": REFUSED},
    "readings": {"doctor": {"mon-1", "mon-2", "free-1"}, "nurse": {"mon-1", "free-1"}, "team": {"mon-2"}, "patient": {"mon-1"},
                 "engineer": {"free-1"}, "station": {"mon-1", "free-1"}, "scientist": {"free-1"}, "commission": REFUSED,
                 "nobody": REFUSED},
    "hospitals": {"doctor": {"sz.h001"}, "nurse": set(), "team": set(), "patient": REFUSED, "engineer": {"sz.h001"},
                  "commission": {"sz.h001"}, "privacy": {"sz.h001", "sz.h002"}, "nobody": REFUSED},
    "hospitals/sz.h001/wards": {"doctor": {"icu", "w01"}, "nurse": {"icu"}, "nobody": REFUSED},
    "associations?device=sz.h001/mon-1": {"doctor": {"p1"}, "nurse": {"p1"}, "team": set(), "patient": {"p1"},
                                          "nobody": REFUSED},
}  # fmt: skip


@pytest.fixture
async def opened(engine: Engine, tmp_path: Path) -> AsyncIterator[tuple[Wards, FastAPI]]:
    async with open_wards(engine, tmp_path) as both:
        yield both


async def pages(app: FastAPI, who: str, path: str) -> list[dict[str, Any]] | None:
    """All rows, page by page of one row each; None when it is refused."""
    rows: list[dict[str, Any]] = []
    is_whole = path.startswith("associations")  # the one list that has no pages
    link: str | None = path if is_whole else f"{path}{'&' if '?' in path else '?'}limit=1"
    while link is not None:
        answer = await ask(app, who, link)
        if answer.status_code == 403:
            return None
        assert answer.status_code == 200, answer.text
        body = answer.json()
        if isinstance(body, list):  # not paged
            return body
        rows += body["items"]
        link = body["next"] and body["next"].removeprefix("/api/v1/")
    return rows


def names_of(wards: Wards, path: str, rows: list[dict[str, Any]] | None) -> set[str]:
    if rows is None:
        return REFUSED
    short = {key: name for name, key in wards.keys.items()}
    columns = {"patients": "patient_key", "associations": "patient_key", "hospitals": "id"}
    column = columns.get(re.split(r"[?/]", path)[0], "device_id")
    return {short.get(row[column], row[column]) for row in rows}


@pytest.mark.clause("7.2b")
@pytest.mark.clause("9.3c")
@pytest.mark.parametrize("path", SEEN)
async def test_a_list_holds_what_the_reach_holds_and_nothing_else(opened: tuple[Wards, FastAPI], path: str) -> None:
    wards, app = opened
    seen = {who: names_of(wards, path, await pages(app, who, path)) for who in SEEN[path]}
    assert seen == SEEN[path]


@pytest.mark.clause("9.3c")
@pytest.mark.parametrize(
    "path", ["patients", "devices", "alarms", "alarms/counts", "readings", "maintenance-windows", "freshness"]
)
async def test_a_list_of_a_foreign_hospital_is_refused_rather_than_empty(opened: tuple[Wards, FastAPI], path: str) -> None:
    _, app = opened
    for who in ("doctor", "nurse", "engineer"):
        answer = await ask(app, who, f"{path}?hospital=sz.h002")
        assert answer.status_code == 403, (who, answer.text)


@pytest.mark.clause("6.1b")
@pytest.mark.clause("9.3c")
async def test_counts_and_aggregates_do_not_tell_of_other_hospitals(opened: tuple[Wards, FastAPI]) -> None:
    _, app = opened
    counted = {who: (await ask(app, who, "alarms/counts")).json()["total"] for who in ("doctor", "nurse", "commission")}
    assert counted == {"doctor": 3, "nurse": 2, "commission": 3}
    start = from_us(NOW_US - 10**8).isoformat().replace("+00:00", "Z")
    for who, count in (("doctor", 15), ("nurse", 10), ("commission", 15)):
        rows = (await ask(app, who, f"aggregates/fleet?from={start}&bucket_s=86400")).json()["items"]
        assert {row["hospital"] for row in rows} == {"sz.h001"}
        assert sum(row["count"] for row in rows) == count, who
    assert (await ask(app, "commission", f"aggregates/fleet?device=sz.h001/mon-1&from={start}")).status_code == 403
    found = (await ask(app, "nurse", "freshness?hospital=sz.h001")).json()
    assert {row["device_id"] for row in found["items"]} >= {"mon-1", "free-1"}
    assert "mon-2" not in {row["device_id"] for row in found["items"]}


@pytest.mark.clause("7.2b")
@pytest.mark.clause("9.3c")
async def test_freshness_tells_of_patients_charts_to_whom_may_read_the_patients_alone(
    opened: tuple[Wards, FastAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    wards, app = opened
    told: list[bytes] = []

    async def hear(messages: Sequence[NewMessage]) -> None:
        told.extend(message.payload for message in messages)

    monkeypatch.setattr(wards.platform, "publish_all", hear)
    shard = get_hospital(wards.engine, "sz.h001")["shard"]
    for name in ("p1", "p2"):
        wards.platform.take(shard, ReadingBatch.of(handle=wards.handles[name], metric=1, time_us=NOW_US, value=70.0), NOW_US)
    key = {name: wards.keys[name] for name in ("p1", "p2")}
    expected = {"doctor": set(key.values()), "nurse": {key["p1"]}, "station": set(), "engineer": set(), "security": set()}
    for who, charts in expected.items():
        answer = await ask(app, who, "freshness?hospital=sz.h001")
        found = {row["device_id"] for row in answer.json()["items"]}
        assert found & set(wards.keys.values()) == charts, who
        assert answer.json()["devices"] == len(found), who
    noted = [*told, *(one.event for one in app.state.backend.services.accesses.waiting(10**6))]
    of = {who: [event for event in noted if b"freshness" in event and f'"{who}"'.encode() in event] for who in expected}
    seen = {who: {one for one in key.values() if any(one.encode() in event for event in of[who])} for who in expected}
    assert seen == expected


@pytest.mark.clause("6.1b")
@pytest.mark.clause("9.3c")
async def test_a_search_for_a_name_finds_nobody_of_another_ward(opened: tuple[Wards, FastAPI]) -> None:
    wards, app = opened
    for path in ("patients?q={}", "readings/search?q={}"):
        own = (await ask(app, "nurse", path.format(NAMES["p1"]))).json()["items"]
        assert own
        for name in (NAMES["p2"], NAMES["p3"], "MRN-p2"):
            assert (await ask(app, "nurse", path.format(name))).json()["items"] == []
    masked = await ask(app, "station", f"readings/search?q={NAMES['p1']}")
    assert masked.json()["items"] == []  # a station sees the readings, and no name
    assert masked.json()["devices_matched"] == 0
    assert (await ask(app, "privacy", f"patients?q={NAMES['p1']}")).json()["items"] == []
    found = await ask(app, "privacy", f"patients?q={NAMES['p1']}", **{"X-Unmask": "true", "X-Reason": "request 12"})
    assert [row["patient_key"] for row in found.json()["items"]] == [wards.keys["p1"]]


@pytest.mark.clause("9.3c")
async def test_names_are_masked_unless_policy_says_otherwise_or_they_are_asked_for_with_a_reason(
    opened: tuple[Wards, FastAPI],
) -> None:
    wards, app = opened
    path = f"patients/{wards.keys['p1']}"
    clear, masked = (NAMES["p1"], "MRN-p1-77"), ("王**", "***77")
    why = {"X-Unmask": "true", "X-Reason": "request 12"}
    for who, more, expected in (
        ("doctor", {}, clear), ("patient", {}, clear), ("privacy", {}, masked), ("privacy", why, clear),
    ):  # fmt: skip
        row = (await ask(app, who, path, **more)).json()
        assert (row["name"], row["ref"]) == expected, who
        (row,) = [row for row in (await ask(app, who, "patients", **more)).json()["items"] if row["patient_key"] in path]
        assert (row["name"], row["ref"]) == expected, who
    assert (await ask(app, "privacy", path, **{"X-Unmask": "true"})).status_code == 422
    note = {who: (await ask(app, who, "alarms/a-mon-1")).json()["note"] for who in ("nurse", "station")}
    assert note == {"nurse": NOTE, "station": "***"}


@pytest.mark.clause("7.2b")
async def test_a_patient_sees_their_own_and_nothing_of_others(opened: tuple[Wards, FastAPI]) -> None:
    wards, app = opened
    own, other = wards.keys["p1"], wards.keys["p2"]
    for path in (
        "patients/{}",
        "patients/{}/presets",
        "readings?patient={}",
        "associations?patient={}",
        "readings/latest?patient={}",
    ):
        assert (await ask(app, "patient", path.format(own))).status_code == 200, path
        assert (await ask(app, "patient", path.format(other))).status_code == 404, path
    assert (await ask(app, "patient", f"readings?handle={wards.handles['mon-2']}")).status_code == 404
    assert (await ask(app, "patient", "readings?device=sz.h001/mon-2")).status_code == 403


@pytest.mark.clause("9.3c")
async def test_of_a_device_each_sees_what_it_measured_of_theirs(opened: tuple[Wards, FastAPI]) -> None:
    """mon-1 comes off p1, is on nobody for a while, and goes to p2."""
    wards, app = opened
    handle = wards.handles["mon-1"]
    wards.hand_over("mon-1", "p2", off_s=100, on_s=200)
    wards.measure("mon-1", (150.0, 160.0, 250.0, 260.0))
    taken = {who: await seconds_of(app, who, handle) for who in ("doctor", "patient", "team", "engineer", "nurse")}
    assert taken == {
        "doctor": [0, 1, 2, 3, 4, 150, 160, 250, 260], "nurse": [0, 1, 2, 3, 4, 150, 160, 250, 260],
        "patient": [0, 1, 2, 3, 4], "team": [250, 260], "engineer": [150, 160],
    }  # fmt: skip
    start = from_us(NOW_US - 10**8).isoformat().replace("+00:00", "Z")
    buckets = (await ask(app, "patient", f"readings/buckets?handle={handle}&from={start}&bucket_s=86400")).json()["items"]
    assert sum(row["count"] for row in buckets) == 5
    of_one = f"readings/buckets?patient={wards.keys['p1']}&from={start}&bucket_s=86400"
    assert sum(row["count"] for row in (await ask(app, "doctor", of_one)).json()["items"]) == 5
    assert (await ask(app, "patient", f"readings/latest?handle={handle}")).json()["items"] == []
    assert len((await ask(app, "team", f"readings/latest?handle={handle}")).json()["items"]) == 1


@pytest.mark.clause("9.3c")
async def test_who_comes_back_is_as_sensitive_as_before(opened: tuple[Wards, FastAPI]) -> None:
    wards, app = opened
    wards.raise_level("p2")
    patients.discharge_patient(wards.engine, ADA, wards.keys["p2"], NOW_US + 5, version=None)
    before = patients.get_patient(wards.engine, wards.keys["p2"])
    async with client_of(app, "nurse") as client:
        body = {"hospital_id": "sz.h001", "ref": before["ref"], "name": "x", "ward_id": "icu"}
        refused = await client.post("http://test/api/v1/patients", json=body)
        assert refused.status_code == 403, refused.text
        assert patients.get_patient(wards.engine, wards.keys["p2"]) == before
        new = await client.post("http://test/api/v1/patients", json=body | {"ref": "MRN-new"})
        assert (new.status_code, new.json()["patient_key"] in wards.keys.values()) == (201, False)


@pytest.mark.clause("9.3c")
async def test_a_live_state_tells_nothing_measured_of_somebody_out_of_reach(opened: tuple[Wards, FastAPI]) -> None:
    """mon-1 comes off p1, and its last values are still p1's."""
    wards, app = opened
    (span,) = associations.list_associations(wards.engine, reach=ALL, handle=wards.handles["mon-1"])
    associations.end_association(wards.engine, later(6), span["id"], NOW_US + 6 * 10**6)
    wards.platform.learn()
    assert await heart_rates_of(app, "doctor", "mon-1") == [70.0, 70.0]
    assert await heart_rates_of(app, "engineer", "mon-1") == [None, None]
    wards.measure("mon-1", [12.0])
    assert await heart_rates_of(app, "engineer", "mon-1") == [70.0, 70.0]

    wards.clock.advance(20 * 10**6)
    associations.associate(wards.engine, later(20), wards.handles["mon-1"], wards.keys["p2"], NOW_US + 20 * 10**6)
    wards.platform.learn()
    assert await heart_rates_of(app, "team", "mon-1") == [None]
    wards.measure("mon-1", [25.0])
    assert await heart_rates_of(app, "team", "mon-1") == [70.0]
    assert await heart_rates_of(app, "doctor", "mon-1") == [70.0, 70.0]


async def heart_rates_of(app: FastAPI, who: str, device_id: str) -> list[float | None]:
    """What a device measured last, by its live state and, where the caller may see devices, by what is told beside it."""
    path = f"devices/sz.h001/{device_id}"
    states = [(await ask(app, who, f"{path}/state")).json()]
    shown = await ask(app, who, path)
    if shown.status_code == 200:
        states.append(shown.json()["live"])
    for state in states:
        assert all((one["value"] is None) == (one["time"] is None) for one in state["channels"]), state
    return [one["value"] for state in states for one in state["channels"] if one["metric"] == "heart_rate"]


@pytest.mark.clause("9.3c")
@pytest.mark.parametrize("query", ["ward=icu", "ward=icu&hospital=sz.h001&hospital=sz.h002"])
@pytest.mark.parametrize("path", ["aggregates/fleet", "readings"])
async def test_a_ward_is_of_the_one_hospital_that_is_named(opened: tuple[Wards, FastAPI], path: str, query: str) -> None:
    answer = await ask(opened[1], "scientist", f"{path}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input"), answer.text


async def seconds_of(app: FastAPI, who: str, handle: int) -> list[int]:
    rows = (await ask(app, who, f"readings?handle={handle}")).json()["items"]
    return [round((datetime.fromisoformat(row["time"]) - from_us(NOW_US)).total_seconds()) for row in rows]


@pytest.mark.clause("9.3c")
async def test_a_planted_name_is_in_no_answer_error_log_or_metric(
    opened: tuple[Wards, FastAPI], caplog: pytest.LogCaptureFixture
) -> None:
    wards, app = opened
    caplog.set_level(logging.DEBUG)
    key = wards.keys["p1"]
    paths = [
        "patients", f"patients/{key}", "patients?q=%E7%8E%8B", "alarms", "alarms/a-mon-1", "alarms/a-mon-1/knowledge",
        "devices",
        "readings", "readings/latest?hospital=sz.h001", "readings/search?above=1", f"associations?patient={key}", "hospitals",
        "alarms/counts", "alarms/episodes", "exports", "writes", "users", "tokens", "me", "me/permissions", "nowhere",
    ]  # fmt: skip
    for who in ("engineer", "station", "commission", "privacy", "security", "scientist", "auditor", "nobody"):
        for path in paths:
            answer = await ask(app, who, path)
            assert answer.status_code < 500, (who, path, answer.text)
            for name in NAMES.values():
                assert name not in answer.text, (who, path)
    kept = caplog.text + await metrics_of(app)
    assert not any(name in kept for name in NAMES.values())


async def metrics_of(app: FastAPI) -> str:
    async with client_of(app) as client:
        return (await client.get("http://test/metrics")).text


@pytest.mark.clause("7.2b")
async def test_lists_of_users_hold_those_who_have_nothing_elsewhere(opened: tuple[Wards, FastAPI]) -> None:
    wards, app = opened
    wards.add_user("li.na", Role.NURSE, "sz.h001/icu")
    wards.add_user("wang.wei", Role.NURSE, "sz.h002")
    wards.add_user("he.bo", Role.HOSPITAL_ADMINISTRATOR, "sz.h001")
    assert [row["name"] for row in (await ask(app, "security", "users")).json()["items"]] == ["he.bo", "li.na", "wang.wei"]
    assert (await ask(app, "doctor", "users")).status_code == 403


@pytest.mark.clause("7.2b")
async def test_effective_rights_are_those_that_the_policies_decide(opened: tuple[Wards, FastAPI]) -> None:
    wards, app = opened
    wards.add_user("li.na", Role.NURSE, "sz.h001/icu")
    wards.join_team("p1", "li.na")
    shown = (await ask(app, "security", "users/li.na/permissions")).json()
    (given,) = shown["grants"]
    rights = {right["action"]: right for right in given["rights"]}
    assert rights["patient.read"] == {
        "action": "patient.read", "level": 4, "level_of_own_patients": 4, "purposes": ["TREAT", "ETREAT"],
    }  # fmt: skip
    assert rights["alarm.read"]["level"] == 5
    assert "preset.set" not in rights
    assert "user.read" not in rights
    own = (await ask(app, "nurse", "me/permissions")).json()
    assert {right["action"] for right in own["grants"][0]["rights"]} == set(rights)
    assert (await ask(app, "doctor", "users/li.na/permissions")).status_code == 403
