"""Security events over REST, and the desk that brings them from the stream."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import Engine

from api import security_desk
from api.lanes import Lanes
from api.security_desk import KEPT_US, SecurityDesk, forget_old_events
from domain import subjects
from domain.messages import DeviceEvent, SecurityKind, SecurityNotice, encode
from runtime.clock import ManualClock
from runtime.follower import StreamMessage
from runtime.sql.alarm_projection import position_of
from runtime.sql.devices import NewDevice, register_device
from runtime.sql.security_events import POSITION, EventFilter, keep_notices, list_events
from runtime.tasks import end
from tests.sql_fixtures import ADA, ALL, HOSPITAL, NOW_US, add_hospital
from tests.waiting import until

NOTICE = SecurityNotice(HOSPITAL, 1, SecurityKind.REPLAY, NOW_US, "http", "it came again", "10.0.0.7", 3, is_alarm=True)


@pytest.fixture
def bed_monitor(engine: Engine) -> int:
    add_hospital(engine)
    return int(register_device(engine, ADA, HOSPITAL, NewDevice("mon-7", "monitor"))[0]["handle"])


class StreamOnce:
    """Gives the messages of a list to whoever follows from their place on."""

    def __init__(self, messages: list[StreamMessage]) -> None:
        self._messages = messages
        self.asked: list[int] = []

    async def follow(self, stream: str, wanted: list[str], start: int, on_message: Any) -> Any:
        assert (stream, wanted) == (subjects.READINGS_STREAM, ["control.*"])
        self.asked.append(start)
        for message in self._messages:
            if message.sequence >= start:
                on_message(message)
        nothing = lambda: None  # noqa: E731

        async def stop() -> None:
            pass

        return SimpleNamespace(pause=nothing, resume=nothing, stop=stop)


@pytest.mark.clause("9.4")
async def test_the_desk_keeps_what_doors_noticed_once_and_passes_over_the_rest(engine: Engine) -> None:
    said = [
        (3, encode(DeviceEvent(HOSPITAL, 1, "online", NOW_US))), (4, encode(NOTICE)), (5, b'{"type":"security-notice"'),
        (6, encode(DeviceEvent(HOSPITAL, 1, "lead_off", NOW_US, 'it said "security-notice"'))), (8, encode(NOTICE)),
    ]  # fmt: skip
    bus = StreamOnce([StreamMessage("control.1", sequence, payload, NOW_US) for sequence, payload in said])
    services = SimpleNamespace(bus=bus, engine=engine, clock=ManualClock(NOW_US))
    backend: Any = SimpleNamespace(services=services, lanes=Lanes(), engine=engine)
    for times in (1, 2):
        running = asyncio.create_task(SecurityDesk(backend).run())
        await until(lambda: len(bus.asked) == times and position_of(engine, POSITION) == 8)  # noqa: B023 (waited for here)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert len(list_events(engine, EventFilter(), reach=ALL, limit=10).rows) == 2
    assert bus.asked == [1, 9]


@pytest.mark.clause("9.3h")
async def test_old_events_go_when_their_time_has_come_though_nothing_is_noticed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security_desk, "_FORGET_EVERY_S", 0.01)
    add_hospital(engine)
    clock = ManualClock(NOW_US)
    keep_notices(engine, [(4, NOTICE), (5, msgspec.structs.replace(NOTICE, at_us=NOW_US + 1))], 5)
    backend: Any = SimpleNamespace(services=SimpleNamespace(clock=clock), lanes=Lanes(), engine=engine)
    forgetting = asyncio.create_task(forget_old_events(backend))
    kept = lambda: len(list_events(engine, EventFilter(), reach=ALL, limit=10).rows)  # noqa: E731
    assert kept() == 2
    clock.advance((KEPT_US + 1) / 1e6)
    await until(lambda: kept() == 1)
    await end(forgetting)


@pytest.mark.clause("5.4a", "9.4")
async def test_events_are_shown_with_their_true_sender(client: httpx.AsyncClient, engine: Engine, bed_monitor: int) -> None:
    keep_notices(engine, [(7, SecurityNotice(HOSPITAL, bed_monitor, *list(_rest(NOTICE))))], 7)
    answer = await client.get("security/events", params={"device": f"{HOSPITAL}/mon-7", "kind": "replay"})
    (shown,) = answer.json()["items"]
    assert (shown["device_id"], shown["handle"], shown["address"], shown["count"]) == ("mon-7", bed_monitor, "10.0.0.7", 3)
    for nothing in ({"kind": "spoofing"}, {"hospital": "sz.h002"}, {"until": "2020-01-01T00:00:00Z"}):
        assert (await client.get("security/events", params=nothing)).json()["items"] == []
    assert (await client.get("security/events", params={"kind": "rumour"})).status_code == 422


def _rest(notice: SecurityNotice) -> tuple[Any, ...]:
    return tuple(getattr(notice, name) for name in notice.__struct_fields__[2:])
