"""The messages of one device: the newest of however many, and what is not looked at is said. Clause 9.2a."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, select

from api.app import create_app
from api.tracing import messages_of_device
from api.tracing.fates import Taken, fates_of, named_rows
from domain import subjects
from domain.frames import encode_frame
from domain.instants import US_PER_S, to_rfc3339
from domain.messages import Reject, encode
from domain.metrics import metric_of
from domain.readings import ReadingBatch
from runtime.bus import StreamState
from runtime.clock import ManualClock
from runtime.follower import StreamMessage
from runtime.sql.engine import reading
from runtime.sql.places import get_hospital
from runtime.sql.tables import devices
from tests.unit.api.conftest import make, services_of
from tests.unit.api.small_platform import SmallPlatform

pytestmark = pytest.mark.clause("9.2a")
START_US = 1_700_000_000_000_000
DEVICE, HOSPITAL = "sz.h001/mon-7", "sz.h001"
METRICS = [metric_of("heart_rate").id, metric_of("spo2").id]
MESSAGES = 30


class WithRejects(SmallPlatform):
    """… and the stream of rejects, one a second."""

    def __init__(self, directory: Path, engine: Engine) -> None:
        super().__init__(directory, engine)
        self.kept: list[StreamMessage] = []
        self.asked: list[str] = []

    async def ask_table(self, subject: str, payload: bytes, timeout_s: float = 2.0) -> pa.Table:
        self.asked.append(subject)
        return await super().ask_table(subject, payload, timeout_s)

    def refuse(self, principal: str, reason: str, at_s: int, reject_id: str = "", payload: bytes = b"") -> None:
        at_us, number = START_US + at_s * US_PER_S, len(self.kept) + 1
        reject = Reject(reject_id or f"r-{number}", reason, "", "mqtt", principal, HOSPITAL, at_us, payload)
        self.kept.append(StreamMessage(subjects.reject(HOSPITAL), number, encode(reject), at_us))

    async def stream_state(self, stream: str) -> StreamState:
        return StreamState(1, len(self.kept), len(self.kept), 0, 0)

    async def get_message(self, stream: str, sequence: int) -> StreamMessage | None:
        return self.kept[sequence - 1]

    async def next_message(self, stream: str, subject: str, sequence: int) -> StreamMessage | None:
        return next((one for one in self.kept[sequence - 1 :] if one.subject == subject), None)


@pytest.fixture
def platform(tmp_path: Path, engine: Engine) -> WithRejects:
    return WithRejects(tmp_path, engine)


@pytest.fixture
async def app(platform: WithRejects, engine: Engine, clock: ManualClock) -> AsyncIterator[FastAPI]:
    made = create_app(
        services_of(engine=engine, clock=clock, bus=platform, lake=platform.lake, readings=platform.store), background=False
    )
    async with made.router.lifespan_context(made):
        yield made


@pytest.fixture
async def shard(client: httpx.AsyncClient, platform: WithRejects, engine: Engine) -> int:
    """Of a monitor that sent one message a second, of two metrics each; the first half of them is in the lake."""
    await make(client, "hospitals", {"id": HOSPITAL, "name": "First", "tier": "tertiary", "beds": 10})
    body = {"hospital_id": HOSPITAL, "device_id": "mon-7", "model": "monitor", "ward_id": "icu"}
    handle = (await make(client, "devices", body))["device"]["handle"]
    shard = int(get_hospital(engine, HOSPITAL)["shard"])
    for number in range(MESSAGES):
        at_us = START_US + number * US_PER_S
        platform.take(shard, ReadingBatch.of(handle=handle, metric=METRICS, time_us=at_us, value=70.0, source=handle), at_us)
        if number == MESSAGES // 2:
            platform.commit()
    return shard


async def messages(client: httpx.AsyncClient, until_s: int = MESSAGES, limit: int = 50) -> dict[str, Any]:
    times = {"from": to_rfc3339(START_US), "until": to_rfc3339(START_US + until_s * US_PER_S)}
    answer = await client.get("traces", params={"device": DEVICE, "limit": limit} | times)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def second(message: dict[str, Any]) -> int:
    return (int(message["trace"].rpartition("-")[2]) - START_US) // US_PER_S


@pytest.mark.usefixtures("shard")
@pytest.mark.parametrize("until_s", [MESSAGES, 10 * MESSAGES, 10])
async def test_of_more_readings_than_are_looked_at_the_newest_are_told(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, until_s: int
) -> None:
    monkeypatch.setattr(messages_of_device, "MOST_ROWS", 9)
    (found,) = (told := await messages(client, until_s, limit=1))["messages"]
    assert (second(found), found["readings"], told["is_cut"]) == (min(until_s, MESSAGES) - 1, 2, True)
    assert (told["unknown"], told["missing"]) == ([], [])


async def test_that_a_host_does_not_answer_is_said(client: httpx.AsyncClient, platform: WithRejects, shard: int) -> None:
    assert (await messages(client))["unknown"] == []
    platform.silent.add(shard)
    told = await messages(client)
    assert second(told["messages"][0]) == MESSAGES // 2
    assert "does not answer" in told["unknown"][0]


async def test_a_host_that_does_not_answer_is_asked_once_however_often_time_is_halved(
    client: httpx.AsyncClient, platform: WithRejects, shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages_of_device, "MOST_ROWS", 9)
    platform.silent.add(shard)
    platform.asked.clear()
    told = await messages(client, limit=1)
    assert second(told["messages"][0]) == MESSAGES // 2  # the newest in the lake
    assert "does not answer" in told["unknown"][0]
    assert platform.asked.count(subjects.shard(shard)) == 1


async def test_a_burst_before_one_late_message_is_told_too(
    app: FastAPI, client: httpx.AsyncClient, platform: WithRejects, shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reading(app.state.backend.engine) as connection:
        handle = connection.execute(select(devices.c.handle)).scalar_one()
    late_us = START_US + 86_400 * US_PER_S
    late = ReadingBatch.of(handle=handle, metric=METRICS[:1], time_us=late_us, value=70.0, source=handle)
    platform.take(shard, late, late_us)
    monkeypatch.setattr(messages_of_device, "MOST_ROWS", 20)
    told = await messages(client, until_s=30 * 86_400, limit=5)
    assert [second(message) for message in told["messages"]] == [86_400, 29, 28, 27, 26]
    assert told["is_cut"]
    whole = await messages(client, until_s=30 * 86_400, limit=50)  # no more readings than are looked at
    assert [second(message) for message in whole["messages"]] == [86_400, *range(29, 19, -1)]


@pytest.mark.usefixtures("shard")
async def test_of_more_refusals_than_are_looked_at_the_newest_are_told_and_that_there_are_more(
    client: httpx.AsyncClient, platform: WithRejects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages_of_device, "_MOST_REJECTS", 3)
    for at_s in range(20):
        platform.refuse(DEVICE if at_s % 2 else f"{HOSPITAL}/mon-8", f"reason-{at_s}", at_s)
    told = await messages(client, until_s=12)
    assert [one["reason"] for one in told["rejects"]] == ["reason-11", "reason-9", "reason-7"]
    assert "more was refused" in told["unknown"][0]
    assert [one["reason"] for one in (await messages(client, until_s=4))["rejects"]] == ["reason-3", "reason-1"]
    assert (await messages(client, until_s=4))["unknown"] == []


async def test_what_was_refused_and_sent_again_later_was_stored_by_the_later_message(
    app: FastAPI, platform: WithRejects, shard: int
) -> None:
    behind, first_us, again_us = app.state.backend, START_US + 60 * US_PER_S, START_US + 90 * US_PER_S
    with reading(behind.engine) as connection:
        handle = connection.execute(select(devices.c.handle)).scalar_one()
    two = ReadingBatch.of(handle=handle, metric=METRICS, time_us=first_us, value=70.0, source=handle)
    refused, kept = two.take(np.array([True, False])), two.take(np.array([False, True]))
    payload = encode_frame(refused, source=0, sequence=0, arrival_us=first_us)
    platform.refuse(DEVICE, "isolated", 60, f"host-{shard}-70-isolated", payload)
    platform.take(shard, kept, first_us + 3)  # in stream time, which was ahead of the door's clock
    platform.take(shard, refused, again_us)
    platform.commit()

    async def fates(sequence: int, readings: ReadingBatch, arrival_us: int) -> list[str]:
        message = Taken(frozenset({shard}), sequence, arrival_us, arrival_us, is_applied=True, hospitals=(HOSPITAL,))
        return (await fates_of(behind, named_rows(readings), message, [shard])).rows["fate"].to_list()

    assert await fates(70, two, first_us) == ["rejected: isolated", "stored"]
    assert await fates(71, refused, again_us) == ["stored"]
