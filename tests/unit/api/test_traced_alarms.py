"""A trace tells of the alarms that its reader may read, and of others how many. Clauses 7.2b, 9.2a."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from api.app import create_app
from api.tracing.following import metric_code
from domain import subjects
from domain.alarms import AlarmEvent, AlarmSubject, AlertType, KnownInput, Phase, Priority
from domain.messages import DeviceEvent, encode
from domain.principals import Caller, Factor, Grant, Kind, Place, Principal, Role
from domain.traces import OfArrival
from runtime.bus import StreamState
from runtime.clock import ManualClock
from runtime.follower import StreamMessage
from runtime.log_store import LogReader
from runtime.sql.engine import writing
from runtime.sql.places import get_hospital
from runtime.sql.tables import alarm_events, alarms
from tests.callers import ADMINISTRATOR, TOKEN, KnownCallers
from tests.sql_fixtures import NOW_US
from tests.unit.api.conftest import client_of, services_of
from tests.unit.api.small_platform import SmallPlatform
from tests.unit.api.wards import HEART, WORN, Wards

pytestmark = [pytest.mark.clause("7.2b"), pytest.mark.clause("9.2a")]
ROLES = {
    "security": Role.SECURITY_ADMINISTRATOR, "system": Role.SYSTEM_ADMINISTRATOR, "auditor": Role.AUDIT_ADMINISTRATOR,
    "operator": Role.LOCAL_OPERATOR, "engineer": Role.BIOMEDICAL_ENGINEER,
}  # fmt: skip
WHO, RULE = "u-0123456789ab", "limit.high"


class Platform(SmallPlatform):
    """… whose stream has one message, if any."""

    message: StreamMessage | None = None

    async def stream_state(self, _stream: str) -> StreamState:
        return StreamState(1, 0, 0, 0, 0)

    async def get_message(self, stream: str, _sequence: int) -> StreamMessage | None:
        return self.message if stream == subjects.READINGS_STREAM else None

    async def next_message(self, _stream: str, _subject: str, _sequence: int) -> StreamMessage | None:
        return None


@pytest.fixture
def wards(engine: Engine, tmp_path: Path) -> Wards:
    made = Wards(engine, Platform(tmp_path, engine), ManualClock(NOW_US + 10**7))
    for device in ("mon-1", "free-1"):
        notify(made, device, f"a-{device}", RULE, 1)
    return made


def notify(wards: Wards, device: str, alarm_id: str, rule: str, sequence: int) -> None:
    """An alarm by the first heart rate of a device, which somebody acknowledged."""
    key = wards.keys[WORN[device]] if device in WORN else None
    subject = AlarmSubject("sz.h001", "icu", device_id=device, patient_key=key, handle=wards.handles[device])
    event = AlarmEvent(
        f"e-{alarm_id}-{sequence}", alarm_id, Phase.START, AlertType.PHYSIOLOGICAL, Priority.HIGH, rule, 1, subject, NOW_US,
        NOW_US, NOW_US, "said", inputs=(KnownInput(metric_code(HEART), None, NOW_US, 0.0, 0),),
    )  # fmt: skip
    row = {
        "alarm_id": alarm_id, "event_id": event.event_id, "stream_sequence": sequence, "event_us": NOW_US,
        "content": msgspec.json.encode(event),
    }  # fmt: skip
    with writing(wards.engine) as connection:
        stand = {"acknowledged_by": WHO, "acknowledged_us": NOW_US, "rule": rule}
        connection.execute(alarms.update().where(alarms.c.alarm_id == alarm_id).values(stand))
        connection.execute(alarm_events.insert().values(row))


@pytest.fixture
async def app(wards: Wards, tmp_path: Path) -> AsyncIterator[FastAPI]:
    platform = wards.platform
    callers = {TOKEN: ADMINISTRATOR} | {
        name: Caller(
            Principal(Kind.USER, f"u-{name}", name), (Grant(role, Place("sz")),),
            factors=frozenset({Factor.PASSWORD, Factor.TOTP}),
        )
        for name, role in ROLES.items()
    }  # fmt: skip
    made = create_app(services_of(
        engine=wards.engine, clock=wards.clock, bus=platform, lake=platform.lake, readings=platform.store,
        callers=KnownCallers(callers), log=LogReader(tmp_path / "audit"),
    ), background=False)  # fmt: skip
    async with made.router.lifespan_context(made):
        yield made


async def trace(app: FastAPI, who: str, key: str) -> tuple[set[str], int, str]:
    """Alarms that are told of, how many are not, and all that was said."""
    async with client_of(app, who) as client:
        answer = await client.get(f"http://test/api/v1/traces/{key}")
    assert answer.status_code == 200, (who, answer.text)
    body: dict[str, Any] = answer.json()
    return {one["alarm_id"] for one in body["alarms"]}, body["alarms_of_others"], answer.text


async def test_who_may_read_no_alarm_is_told_how_many_a_reading_went_into(app: FastAPI, wards: Wards) -> None:
    keys = {name: str(OfArrival(wards.handles[name], NOW_US, NOW_US + 4_000_000)) for name in ("mon-1", "free-1")}
    for who in (TOKEN, *ROLES):
        for device, key in keys.items():
            is_shown = who == TOKEN or (who == "engineer" and device == "free-1")
            told, others, text = await trace(app, who, key)
            assert (told, others) == ({f"a-{device}"} if is_shown else set(), 0 if is_shown else 1), (who, device)
            assert (WHO in text, RULE in text) == (is_shown, is_shown), (who, device)


async def test_so_it_is_of_what_a_device_said(app: FastAPI, wards: Wards) -> None:
    notify(wards, "mon-1", "a-mon-1", "device.lead-off", 2)
    shard = get_hospital(wards.engine, "sz.h001")["shard"]
    event = DeviceEvent("sz.h001", wards.handles["mon-1"], "lead_off", NOW_US)
    assert isinstance(wards.platform, Platform)
    wards.platform.silent = set(range(4))  # hosts remember no turn of it
    wards.platform.message = StreamMessage(subjects.control(shard), 5, encode(event), NOW_US)
    assert (await trace(app, TOKEN, f"{shard}-5"))[:2] == ({"a-mon-1"}, 0)
    assert (await trace(app, "operator", f"{shard}-5"))[:2] == (set(), 1)
