"""What the supervisor is told of dedicated shards."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Engine

from cluster import dedications
from cluster.dedications import Dedications
from domain.errors import Unavailable
from runtime.sql import hand_overs, placement
from runtime.tasks import end
from tests.sql_fixtures import ADA, HOSPITAL, NOW_US, SHARDS, add_hospital
from tests.waiting import until


@pytest.fixture(autouse=True)
def alone_in_shard_0(engine: Engine) -> None:
    add_hospital(engine)
    placement.dedicate(engine, ADA, HOSPITAL, shards=SHARDS)


async def test_a_shard_keeps_its_host_until_its_hospital_has_left_it(engine: Engine) -> None:
    watch = Dedications(engine)
    assert await watch.look() == {0}
    placement.share(engine, ADA, HOSPITAL, shards=SHARDS)
    assert await watch.look() == {0}
    hand_overs.switch(engine, hand_overs.unsettled(engine)[0]["number"], cut_by=700, now_us=NOW_US)
    assert await watch.look() == set()


async def test_a_shard_that_some_hospital_leaves_is_not_dedicated_for_that(engine: Engine) -> None:
    add_hospital(engine, "sz.h002")
    placement.hand_over(engine, ADA, "sz.h002", 2, shards=SHARDS)
    assert await Dedications(engine).look() == {0}


class Supervisor:
    def __init__(self) -> None:
        self.told: list[frozenset[int]] = []

    def dedicate(self, shards: frozenset[int]) -> None:
        self.told.append(shards)


async def test_a_database_that_is_away_changes_nothing_and_is_said_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dedications, "_LOOK_S", 0.001)
    supervisor, watch, failures = Supervisor(), Dedications(engine), 0

    def away(_engine: Engine) -> tuple[set[int], set[int]]:
        nonlocal failures
        failures += 1
        raise Unavailable("the business database does not answer")

    running = asyncio.create_task(watch.run(supervisor))  # type: ignore[arg-type]
    await until(lambda: supervisor.told)
    with monkeypatch.context() as broken:
        broken.setattr(dedications, "dedicated", away)
        await until(lambda: failures > 3)
        told = len(supervisor.told)
    await until(lambda: len(supervisor.told) > told)
    await end(running)
    assert set(supervisor.told) == {frozenset({0})}
    assert [record.message for record in caplog.records] == [
        "which shards are dedicated cannot be read: the business database does not answer"
    ]
