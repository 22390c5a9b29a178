"""The outbox against a real stream: in order, once whatever breaks in between, and patient with a bus that is away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
from sqlalchemy import Engine, func, insert, select

from domain import subjects
from domain.errors import Unavailable
from runtime.batches import NewMessage
from runtime.bus import Bus
from runtime.clock import ManualClock
from runtime.nats_server import NatsServer
from runtime.outbox_relay import OutboxRelay, Publisher
from runtime.sql.engine import reading, writing
from runtime.sql.outbox import unpublished
from runtime.sql.tables import outbox
from tests.sql_fixtures import NOW_US
from tests.waiting import until

pytestmark = pytest.mark.integration


class Breaks(Exception):
    """The process ends here, as far as this test is concerned."""


class Recorder:
    """Publishes through `publisher`, noting each message once, as a stream does; may refuse or break off behind one."""

    def __init__(self, publisher: Publisher | None = None) -> None:
        self.payloads: list[bytes] = []
        self.refuses_after: int | None = None
        self.breaks_after: int | None = None
        self._publisher = publisher
        self._ids = set[str]()
        self.carried = 0

    async def publish_all(self, messages: Sequence[NewMessage]) -> None:
        for message in messages:
            if len(self.payloads) == self.refuses_after:
                raise Unavailable("the bus is away")
            if self._publisher:
                await self._publisher.publish_all([message])
            if message.message_id not in self._ids:
                self.payloads.append(message.payload)
            self._ids.add(message.message_id)
            self.carried += 1
            if len(self.payloads) == self.breaks_after:
                raise Breaks


def put(engine: Engine, *numbers: int, shard: int = 0) -> None:
    """Write messages to the outbox, each by its number."""
    rows = [{"subject": subjects.control(shard), "payload": f"{n}".encode(), "created_us": NOW_US} for n in numbers]
    with writing(engine) as connection:
        connection.execute(insert(outbox), rows)


def waiting(engine: Engine) -> list[int]:
    return [int(row["payload"]) for row in unpublished(engine)]


async def stored(bus: Bus) -> list[int]:
    """Numbers of the messages in the stream, in its order."""
    state = await bus.stream_state(subjects.READINGS_STREAM)
    found = [await bus.get_message(subjects.READINGS_STREAM, n) for n in range(1, state.last_sequence + 1)]
    return [int(message.payload) for message in found if message is not None]


@contextlib.asynccontextmanager
async def running(relay: OutboxRelay) -> AsyncIterator[None]:
    task = asyncio.create_task(relay.run())
    await asyncio.sleep(0)  # the task begins
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_US)


@pytest.mark.clause("8.1")
async def test_messages_reach_the_stream_in_the_order_of_their_writes(engine: Engine, bus: Bus, clock: ManualClock) -> None:
    put(engine, 1, 2)
    put(engine, 3, shard=3)
    put(engine, *range(4, 30))
    assert await OutboxRelay(engine, bus, clock).relay() == 29
    assert await stored(bus) == list(range(1, 30))
    assert waiting(engine) == []
    third = await bus.get_message(subjects.READINGS_STREAM, 3)
    assert third is not None
    assert third.subject == subjects.control(3)


async def test_a_message_is_marked_with_when_it_was_published(engine: Engine, bus: Bus, clock: ManualClock) -> None:
    put(engine, 1)
    clock.advance(5)
    await OutboxRelay(engine, bus, clock).relay()
    with reading(engine) as connection:
        assert connection.execute(select(outbox.c.published_us)).scalar_one() == NOW_US + 5_000_000


async def test_more_messages_than_one_look_takes_are_all_carried(engine: Engine, clock: ManualClock) -> None:
    put(engine, *range(1201))
    recorder = Recorder()
    relay = OutboxRelay(engine, recorder, clock)
    async with running(relay):
        relay.nudge()
        assert await relay.settled(10)
    assert [int(payload) for payload in recorder.payloads] == list(range(1201))
    assert waiting(engine) == []


@pytest.mark.clause("8.1")
async def test_after_a_crash_before_marking_the_stream_still_has_each_message_once(
    engine: Engine, bus: Bus, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(engine, 1, 2, 3)

    def crash(*_: object) -> None:
        raise Breaks

    with monkeypatch.context() as patched:
        patched.setattr("runtime.outbox_relay.mark_published", crash)
        with pytest.raises(Breaks):
            await OutboxRelay(engine, bus, clock).relay()
    assert waiting(engine) == [1, 2, 3]
    put(engine, 4)
    await OutboxRelay(engine, bus, clock).relay()
    assert await stored(bus) == [1, 2, 3, 4]
    assert waiting(engine) == []


async def test_a_message_stored_but_not_answered_for_is_carried_again_and_kept_once(
    engine: Engine, bus: Bus, clock: ManualClock
) -> None:
    put(engine, 1, 2, 3)
    recorder = Recorder(bus)
    recorder.breaks_after = 2
    with pytest.raises(Breaks):
        await OutboxRelay(engine, recorder, clock).relay()
    assert waiting(engine) == [1, 2, 3]
    await OutboxRelay(engine, bus, clock).relay()
    assert await stored(bus) == [1, 2, 3]


async def test_two_relays_at_once_store_each_message_once(engine: Engine, bus: Bus, clock: ManualClock) -> None:
    """A new API process starts while the old one is still there."""
    put(engine, *range(1, 40))
    await asyncio.gather(OutboxRelay(engine, bus, clock).relay(), OutboxRelay(engine, bus, clock).relay())
    assert await stored(bus) == list(range(1, 40))


async def test_nothing_overtakes_a_message_that_was_refused(engine: Engine, clock: ManualClock) -> None:
    put(engine, 1, 2, 3)
    recorder = Recorder()
    recorder.refuses_after = 1
    relay = OutboxRelay(engine, recorder, clock)
    with pytest.raises(Unavailable):
        await relay.relay()
    assert waiting(engine) == [1, 2, 3]
    recorder.refuses_after = None
    await relay.relay()
    assert recorder.payloads == [b"1", b"2", b"3"]


async def test_a_bus_that_is_away_is_waited_for(
    engine: Engine, nats_server: NatsServer, bus: Bus, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    relay = OutboxRelay(engine, bus, clock)
    async with running(relay):
        put(engine, 1)
        relay.nudge()
        assert await relay.settled(10)
        nats_server.kill()
        put(engine, 2, 3)
        relay.nudge()
        await until(lambda: "the outbox waits for the bus" in caplog.text)
        assert not await relay.settled(0)
        await nats_server.start()
        assert await relay.settled(30)
    assert caplog.text.count("the outbox waits for the bus") == 1
    assert waiting(engine) == []
    assert await stored(bus) == [1, 2, 3]


async def test_a_write_has_settled_once_the_stream_has_it(engine: Engine, bus: Bus, clock: ManualClock) -> None:
    relay = OutboxRelay(engine, bus, clock)
    async with running(relay):
        for number in range(1, 6):
            put(engine, number)
            relay.nudge()
            assert await relay.settled(10)
            assert await stored(bus) == list(range(1, number + 1))


async def test_a_write_that_nobody_nudged_for_is_found_in_a_look_of_its_own(
    engine: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process wrote it."""
    monkeypatch.setattr("runtime.outbox_relay._POLL_S", 0.01)
    recorder = Recorder()
    async with running(OutboxRelay(engine, recorder, clock)):
        put(engine, 7)
        await until(lambda: recorder.payloads == [b"7"])


async def test_a_write_settles_although_others_never_stop_writing(engine: Engine, clock: ManualClock) -> None:
    """Each message that is published finds a further one in the outbox: it never runs empty."""

    class Busy(Recorder):
        async def publish_all(self, messages: Sequence[NewMessage]) -> None:
            await asyncio.to_thread(put, engine, int(messages[-1].payload) + 1)
            await super().publish_all(messages)

    relay = OutboxRelay(engine, Busy(), clock)
    async with running(relay):
        put(engine, 1)
        relay.nudge()
        assert await relay.settled(3)


async def test_a_relay_that_does_not_run_settles_nothing(engine: Engine, clock: ManualClock) -> None:
    relay = OutboxRelay(engine, Recorder(), clock)
    relay.nudge()
    assert not await relay.settled(10)
    async with running(relay):
        assert await relay.settled(10)
    relay.nudge()
    assert not await relay.settled(10)


async def test_a_database_that_is_busy_does_not_end_the_relay(
    engine: Engine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise Unavailable("the business database does not answer")

    monkeypatch.setattr("runtime.outbox_relay._RETRY_S", 0.01)
    put(engine, 1)
    recorder = Recorder()
    relay = OutboxRelay(engine, recorder, clock)
    with monkeypatch.context() as patched:
        patched.setattr("runtime.outbox_relay.mark_published", busy)
        async with asyncio.timeout(20), running(relay):
            relay.nudge()
            await until(lambda: recorder.carried >= 2)
            patched.undo()
            assert await relay.settled(10)
    assert waiting(engine) == []


async def test_ids_of_messages_are_never_used_twice(engine: Engine, bus: Bus, clock: ManualClock) -> None:
    """They name messages on the bus: a second use would be taken for a repetition and dropped."""
    put(engine, 1, 2)
    await OutboxRelay(engine, bus, clock).relay()
    with writing(engine) as connection:
        highest = connection.execute(select(func.max(outbox.c.id))).scalar_one()
        connection.execute(outbox.delete())
    put(engine, 3)
    assert unpublished(engine)[0]["id"] > highest
    await OutboxRelay(engine, bus, clock).relay()
    assert await stored(bus) == [1, 2, 3]
