"""The register of risks over REST: found by rules, judged by people, with its history. Clause 6.1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, insert

from api.app import create_app
from api.risk_watch import look_for_risks
from domain.accesses import Access, Interaction, audit_event
from domain.instants import DAY_US
from domain.log_entries import LogRecord
from domain.permissions import Action, View
from domain.principals import Kind, Principal
from domain.risks import Posture
from runtime import access_counts
from runtime.clock import ManualClock
from runtime.log_events import Received
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LogSigner
from runtime.log_store import LogReader
from runtime.soft_keys import SoftKeys
from runtime.sql.engine import writing
from runtime.sql.risks import BACKUP
from runtime.sql.tables import exports, write_log
from tests.unit.api.conftest import client_of, services_of

pytestmark = pytest.mark.clause("6.1")


def key(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture
async def app(engine: Engine, clock: ManualClock, tmp_path: Path) -> AsyncIterator[FastAPI]:
    posture = Posture(speaks_plain=True, seals_files=True, keys_lie_beside=False, outside_witnesses=1)
    made = create_app(
        services_of(engine=engine, clock=clock, log=LogReader(tmp_path / "audit"), posture=posture), background=False
    )
    async with made.router.lifespan_context(made):
        yield made


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as opened:
        opened.headers["X-Reason"] = "the yearly review"
        yield opened


@pytest.fixture
def keeper(tmp_path: Path) -> LogKeeper:
    return LogKeeper.open(tmp_path / "audit", LogSigner(SoftKeys(tmp_path / "log-keys"), "test"), lambda: bytes(32))


def backed_up(engine: Engine, at_us: int) -> None:
    with writing(engine) as connection:
        connection.execute(insert(write_log).values(at_us=at_us, who="vitalgrid", action=BACKUP, target="b"))


async def found(client: httpx.AsyncClient, state: str | None = None) -> dict[str, dict]:
    await client.post("/api/v1/risks/look")
    answer = await client.get("/api/v1/risks", params={"risk_state": state} if state else {})
    return {f"{risk['rule']}|{risk['subject']}": risk for risk in answer.json()["items"]}


async def judged(client: httpx.AsyncClient, risk: dict, **change: object) -> httpx.Response:
    return await client.patch(f"/api/v1/risks/{risk['id']}", json=change, headers={"If-Match": f'"{risk["version"]}"'})


async def test_a_risk_is_found_judged_and_closed_with_its_history(
    client: httpx.AsyncClient, engine: Engine, clock: ManualClock
) -> None:
    backup = (await found(client))["backup-old|"]
    assert (backup["state"], backup["risk"], backup["level"], backup["evidence"]) == ("open", 20, 4, {"backups": 0})
    assert backup["owner"] == "system-administrator"
    changed = await judged(client, backup, state="measure-in-force", owner="li.na", measure="every night at three")
    assert (changed.json()["state"], changed.json()["measure"]) == ("measure-in-force", "every night at three")
    assert (await found(client))["backup-old|"]["state"] == "measure-in-force"
    backed_up(engine, clock.now_us())
    assert "backup-old|" not in await found(client)
    closed = (await found(client, "closed"))["backup-old|"]
    assert closed["id"] == backup["id"]
    assert (await judged(client, closed, state="measure-in-force")).status_code == 409
    clock.advance(8 * 86_400)
    again = (await found(client))["backup-old|"]
    assert (again["id"], again["state"], again["evidence"]) == (backup["id"], "open", {"age_days": 8})
    history = (await client.get(f"/api/v1/risks/{backup['id']}")).json()["history"]
    assert [(event["event"], event["state"]) for event in history] == [
        ("found", "open"), ("changed", "measure-in-force"), ("gone", "closed"), ("found-again", "open"),
    ]  # fmt: skip
    assert history[1]["note"] == "the yearly review"


async def test_looking_twice_makes_no_second_entry_and_no_event(client: httpx.AsyncClient, app: FastAPI) -> None:
    first = await found(client)
    assert await look_for_risks(app.state.backend) == 0
    second = await found(client)
    assert {key: (risk["id"], risk["version"]) for key, risk in first.items()} == {
        key: (risk["id"], risk["version"]) for key, risk in second.items()
    }


async def test_a_risk_is_accepted_with_a_reason_and_an_end_and_open_again_after_it(
    client: httpx.AsyncClient, clock: ManualClock
) -> None:
    links = (await found(client))["plain-links|"]
    assert (await judged(client, links, state="accepted")).status_code == 422
    until = "2099-01-01T00:00:00Z"
    unsaid = await client.patch(
        f"/api/v1/risks/{links['id']}", json={"state": "accepted", "accepted_until": until},
        headers={"If-Match": f'"{links["version"]}"', "X-Reason": ""},
    )  # fmt: skip
    assert unsaid.status_code == 422
    accepted = (await judged(client, links, state="accepted", accepted_until=until)).json()
    assert accepted["state"] == "accepted"
    assert (await found(client))["plain-links|"]["state"] == "accepted"
    clock.advance(100 * 366 * 86_400)
    assert (await found(client))["plain-links|"]["state"] == "open"


async def test_somebody_enters_a_risk_that_no_rule_finds_and_no_rule_closes_it(client: httpx.AsyncClient) -> None:
    new = {"title": "Displays in corridors", "measure": "Turn them", "kind": "patients", "owner": "li"}
    new |= {"likelihood": 3, "severity": 4}
    made = await client.post("/api/v1/risks", json=new)
    assert made.status_code == 201, made.text
    assert (made.json()["title"], made.json()["risk"], made.json()["level"]) == ("Displays in corridors", 12, 4)
    assert (await found(client))["None|"]["id"] == made.json()["id"]
    assert (await judged(client, made.json(), severity=2)).json()["risk"] == 6
    assert (await client.post("/api/v1/risks", json=new | {"kind": "nothing"})).status_code == 422
    assert (await client.post("/api/v1/risks", json=new | {"severity": 6})).status_code == 422


async def test_figures_that_a_rule_gives_are_nobodys_to_change(client: httpx.AsyncClient) -> None:
    links = (await found(client))["plain-links|"]
    assert (await judged(client, links, severity=1)).status_code == 409
    assert (await judged(client, links | {"version": 99}, state="open")).status_code == 412
    assert (await client.get("/api/v1/risks/999999")).status_code == 404


async def test_exports_in_bulk_are_found_by_who_made_them(
    client: httpx.AsyncClient, engine: Engine, clock: ManualClock
) -> None:
    row = {"at_us": clock.now_us(), "who": "wang.wei", "lake_version": 1, "query": {}}
    with writing(engine) as connection:
        connection.execute(insert(exports), [row] * 25 + [row | {"at_us": clock.now_us() - 30 * DAY_US, "who": "li.na"}] * 25)
    risks = await found(client)
    assert risks["bulk-export|wang.wei"]["evidence"] == {"exports": 25, "days": 7}
    assert "bulk-export|li.na" not in risks


def accessed(number: int, at_us: int, **parts: object) -> Received:
    who = Principal(Kind.USER, "u-1", "li.na")
    access = Access(
        **{
            "id": f"a-{number}", "at_us": at_us, "request_id": "r", "principal": who, "action": Action.PATIENT_READ,
            "interaction": Interaction.READ, "route": "GET /x", "path": "/x", "status": 200, "place": f"sz.h001/w{number % 6}",
            "patients": (key(0),), "view": View.CLEAR,
        } | parts
    )  # fmt: skip
    return Received(number, LogRecord(f"a-{number}", at_us, "accesses", number, msgspec.Raw(audit_event(access, "sz"))))


async def test_what_people_read_is_counted_from_the_log_and_shows_no_patient(
    client: httpx.AsyncClient, clock: ManualClock, keeper: LogKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_counts, "_AT_ONCE", 100)  # several reads
    now_us = clock.now_us()
    keeper.take([accessed(number, now_us - 8 * DAY_US, patients=(key(number),)) for number in range(1000, 1400)])  # before
    keeper.take([accessed(number, now_us - number, patients=(key(number),)) for number in range(1, 211)])
    keeper.take([accessed(number, now_us, status=403, patients=(key(number),)) for number in range(300, 360)])
    keeper.take([accessed(number, now_us, action=Action.DEVICE_READ) for number in range(400, 700)])
    keeper.close()
    risks = await found(client)
    assert risks["names-in-bulk|li.na"]["evidence"] == {"count": 210, "days": 7}
    assert risks["many-wards|li.na"]["evidence"]["count"] == 6
    assert risks["often-refused|li.na"]["evidence"]["count"] == 60
    assert key(1) not in str(risks)


async def test_wards_that_are_read_by_lists_are_counted(
    client: httpx.AsyncClient, clock: ManualClock, keeper: LogKeeper
) -> None:
    whole, own = (Principal(Kind.USER, f"u-{name}", name) for name in ("whole", "own"))
    of_hospital = tuple(f"sz.h001/w{number}" for number in range(7))
    searched = {"interaction": Interaction.SEARCH, "place": None}
    keeper.take([accessed(1, clock.now_us(), principal=whole, wards=of_hospital, **searched)])
    keeper.take([accessed(number, clock.now_us(), principal=own, wards=of_hospital[:1], **searched) for number in range(2, 50)])
    keeper.close()
    risks = await found(client)
    assert {risk: risks[risk]["evidence"]["count"] for risk in risks if risk.startswith("many-wards")} == {
        "many-wards|whole": 7
    }  # fmt: skip


async def test_a_token_that_shows_many_more_names_than_on_its_usual_day_is_found(
    client: httpx.AsyncClient, clock: ManualClock, keeper: LogKeeper
) -> None:
    steady, taken, masked = (Principal(Kind.SERVICE, f"t-{name}", name) for name in ("steady", "taken", "masked"))
    all_of_them = [tuple(key(number) for number in range(begin, begin + 500)) for begin in range(0, 1000, 500)]
    numbers = iter(range(10_000))

    def read(who: Principal, days_ago: float, pages: Sequence[tuple[str, ...]], view: View = View.CLEAR) -> None:
        at_us = clock.now_us() - int(days_ago * DAY_US)
        keeper.take([accessed(next(numbers), at_us, principal=who, patients=page, view=view) for page in pages])

    for day in range(7):
        read(steady, day + 0.5, all_of_them)
        read(taken, day + 0.5, [(key(1),)] * 300)
    read(taken, 2.5, all_of_them)
    read(masked, 0.5, all_of_them, View.MASKED)
    keeper.close()
    risks = await found(client)
    named = {risk: risks[risk]["evidence"] for risk in risks if risk.endswith(("steady", "taken", "masked"))}
    assert named == {"token-unusual|taken": {"count": 1000, "usual": 1, "days": 7}}


async def test_of_tokens_whole_days_alone_are_counted_where_events_are_too_many(
    clock: ManualClock, keeper: LogKeeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_counts, "_AT_ONCE", 10)
    monkeypatch.setattr(access_counts, "MOST_EVENTS", 50)
    since_us, token = clock.now_us() - 7 * DAY_US, Principal(Kind.SERVICE, "t-1", "his")
    keeper.take([
        accessed(number, since_us + number * DAY_US // 10, principal=token, patients=(key(number),)) for number in range(70)
    ])  # fmt: skip
    keeper.close()
    counted = access_counts.count_accesses(tmp_path / "audit", since_us, 7, lambda instant: instant)
    assert counted.reached_us == since_us + 2 * DAY_US
    assert counted.by_tokens["his"].by_name_daily == (10,) * 5
    monkeypatch.setattr(access_counts, "MOST_EVENTS", 45)
    monkeypatch.setattr(access_counts, "_AT_ONCE", 9)
    counted = access_counts.count_accesses(tmp_path / "audit", since_us, 7, lambda instant: instant)
    assert counted.reached_us == since_us + 5 * DAY_US // 2
    assert counted.by_tokens["his"].by_name_daily == (10,) * 4


async def test_names_in_bulk_are_patients_seen_by_name_and_not_accesses(
    client: httpx.AsyncClient, clock: ManualClock, keeper: LogKeeper
) -> None:
    now_us = clock.now_us()
    nurse, reader, masked = (Principal(Kind.USER, f"u-{name}", name) for name in ("nurse", "reader", "masked"))
    own = tuple(key(number) for number in range(40))
    pages = [tuple(key(number) for number in range(begin, begin + 500)) for begin in range(0, 5000, 500)]
    keeper.take([accessed(number, now_us, principal=nurse, patients=(own[number % 40],)) for number in range(800)])
    keeper.take([accessed(number, now_us, principal=reader, patients=page) for number, page in enumerate(pages, 1000)])
    keeper.take(
        [accessed(n, now_us, principal=masked, patients=page, view=View.MASKED) for n, page in enumerate(pages, 2000)]
    )  # fmt: skip
    keeper.close()
    risks = await found(client)
    assert {risk for risk in risks if risk.startswith("names-in-bulk")} == {"names-in-bulk|reader"}
    assert risks["names-in-bulk|reader"]["evidence"]["count"] == pytest.approx(5000, rel=0.2)
    assert {risk for risk in risks if risk.startswith("many-patients")} == {"many-patients|reader", "many-patients|masked"}


async def test_accesses_that_are_too_many_to_count_close_nothing(
    client: httpx.AsyncClient, clock: ManualClock, keeper: LogKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    await test_what_people_read_is_counted_from_the_log_and_shows_no_patient(client, clock, keeper, monkeypatch)
    monkeypatch.setattr(access_counts, "MOST_EVENTS", 300)  # the newest tell of devices
    risks = await found(client)
    assert (risks["many-wards|li.na"]["state"], risks["often-refused|li.na"]["state"]) == ("open", "open")


async def test_patients_are_in_the_register_by_the_id_of_their_account(
    client: httpx.AsyncClient, clock: ManualClock, keeper: LogKeeper
) -> None:
    patient = Principal(Kind.USER, "u-9", "ouyang.canary", is_patient=True)
    keeper.take([accessed(number, clock.now_us(), status=403, principal=patient) for number in range(60)])
    keeper.close()
    assert {key for key in await found(client) if key.startswith("often-refused")} == {"often-refused|u-9"}


async def test_a_log_that_cannot_be_read_closes_nothing(
    client: httpx.AsyncClient, clock: ManualClock, keeper: LogKeeper, tmp_path: Path
) -> None:
    await test_what_people_read_is_counted_from_the_log_and_shows_no_patient(client, clock, keeper, pytest.MonkeyPatch())
    for file in (tmp_path / "audit").glob("events.db*"):
        file.write_bytes(b"nothing that SQLite knows" * 1000)
    assert (await found(client))["names-in-bulk|li.na"]["state"] == "open"


async def test_a_note_is_sealed_in_the_database(client: httpx.AsyncClient, engine: Engine) -> None:
    links = (await found(client))["plain-links|"]
    await judged(client, links, measure="said to nobody else")
    with engine.connect() as connection:
        rows = str(connection.exec_driver_sql("SELECT * FROM risks").fetchall())
        rows += str(connection.exec_driver_sql("SELECT * FROM risk_events").fetchall())
    assert "said to nobody else" not in rows
    assert "yearly review" not in rows
