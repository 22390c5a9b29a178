"""Live clients that catch up: few of one holder at once, of a real bus, and no other holder's wait behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from api.live import feed as feed_module
from api.live.alarms import alarm_feed
from api.live.feed import CATCH_UPS, Feed
from api.live.subscription import Subscription
from domain import subjects
from domain.alarms import AlarmEvent, AlarmSubject, AlertType, Phase, Priority
from domain.errors import TooManyRequests
from runtime.bus import Bus
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.clause("9.1b")]
ALARMS = 12


@pytest.fixture
async def feed(bus: Bus) -> AsyncIterator[Feed]:
    """Over a stream that has a few alarms."""
    for number in range(ALARMS):
        event = AlarmEvent(
            event_id=f"e{number}", alarm_id=f"a{number}", phase=Phase.START, alert_type=AlertType.PHYSIOLOGICAL,
            priority=Priority.HIGH, rule="limit.high", rule_version=1, subject=AlarmSubject("sz.h001", handle=number),
            onset_us=1, event_us=1, arrival_us=1, text="HR 180",
        )  # fmt: skip
        await bus.publish(subjects.alarm("sz.h001"), msgspec.json.encode(event), event.event_id)
    opened = alarm_feed(bus)
    yield opened
    await opened.close()


def client(holder: str) -> Subscription:
    """One that has room for half of the alarms, so that it catches up until it is read."""
    made = Subscription(None, lambda alarm: alarm.event, lambda: b"", max_events=ALARMS // 2)
    made.holder = holder
    return made


async def full(feed: Feed, holder: str) -> list[Subscription]:
    """As many as may catch up at once, none of whom is read."""
    clients = [client(holder) for _ in range(CATCH_UPS)]
    for one in clients:
        await feed.join(one, 0)
    await until(lambda: all(one.is_filling for one in clients))
    return clients


async def test_those_of_one_holder_wait_and_those_of_another_do_not(feed: Feed) -> None:
    clients = await full(feed, "villain")
    waiting = asyncio.create_task(feed.join(client("villain"), 0))
    await until(lambda: feed._catch_ups.waiting("villain") == 1)
    async with asyncio.timeout(30):
        await feed.join(client("ward"), 0)
        await feed.join(client("villain"), None)  # from now on: that needs no turn
    assert not waiting.done()
    await feed.leave(clients[0])
    async with asyncio.timeout(30):
        await waiting


async def test_who_has_read_what_it_missed_makes_room_though_nothing_new_comes(feed: Feed) -> None:
    clients = await full(feed, "ward")
    waiting = asyncio.create_task(feed.join(client("ward"), 0))
    await until(lambda: clients[0].after == ALARMS)
    async with asyncio.timeout(30):
        assert (await clients[0].take() or b"").count(b"event: alarm") == ALARMS
        await waiting
    assert clients[0].is_bounded


async def test_all_displays_of_a_token_come_back_together_one_behind_the_other(feed: Feed) -> None:
    boards = [Subscription(None, lambda alarm: alarm.event, lambda: b"") for _ in range(40)]
    for one in boards:
        one.holder = "ward"
    async with asyncio.timeout(30):
        await asyncio.gather(*(feed.join(one, 0) for one in boards))
    await until(lambda: all(one.after == ALARMS for one in boards))


async def test_who_waits_too_long_is_told_so(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_CATCH_UP_S", 0.5)
    clients = await full(feed, "villain")
    waiting = [asyncio.create_task(feed.join(client("villain"), 0)) for _ in range(CATCH_UPS)]
    said = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in said] == [TooManyRequests] * CATCH_UPS
    assert feed.client_count == CATCH_UPS
    for one in clients:
        await feed.leave(one)
    assert feed._follower is None
    await feed.join(client("villain"), 0)


async def test_who_is_refused_alone_leaves_no_follower_behind(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise TooManyRequests("wait")

    monkeypatch.setattr(Feed, "_in_its_turn", away)
    with pytest.raises(TooManyRequests):
        await feed.join(client("ward"), 0)
    assert (feed.client_count, feed._follower) == (0, None)


async def test_who_waits_for_a_turn_is_ended_with_the_others_when_it_has_to_be_judged_anew(feed: Feed) -> None:
    clients = await full(feed, "villain")
    late = client("villain")
    late.is_limited = True
    waiting = asyncio.create_task(feed.join(late, 0))
    await until(lambda: feed._catch_ups.waiting("villain") == 1)
    feed.end_limited()
    await feed.leave(clients[0])
    async with asyncio.timeout(30):
        await waiting
        assert b"judged-anew" in (await late.take() or b"")
        assert await late.take() is None
