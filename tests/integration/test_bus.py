"""The bus against a real nats-server: kept, ordered, exactly once, across a kill -9 of the server."""

from __future__ import annotations

import asyncio
import os
import signal

import pyarrow as pa
import pytest

from domain import subjects
from domain.errors import NotFound, Unavailable
from runtime.batches import MOST, MOST_BYTES, NewMessage, batches_of
from runtime.bus import Bus
from runtime.nats_server import NatsServer
from tests.conftest import TOKEN
from tests.waiting import until

pytestmark = pytest.mark.integration


async def test_a_message_id_is_stored_once(bus: Bus) -> None:
    first = await bus.publish(subjects.reading(3), b"frame", "id-1")
    again = await bus.publish(subjects.reading(3), b"frame", "id-1")
    assert (first, again) == (1, 1)
    assert (await bus.stream_state(subjects.READINGS_STREAM)).messages == 1


def numbered(*numbers: int) -> list[NewMessage]:
    return [NewMessage(subjects.control(n % 3), f"{n}".encode(), f"id-{n}") for n in numbers]


async def kept(bus: Bus) -> list[int]:
    """All of the readings stream, in its order."""
    messages = (await bus.stream_state(subjects.READINGS_STREAM)).last_sequence
    seen: list[int] = []
    follower = await bus.follow(subjects.READINGS_STREAM, ["control.*"], 1, lambda message: seen.append(int(message.payload)))
    await until(lambda: len(seen) == messages)
    await follower.stop()
    return seen


async def test_many_messages_are_stored_in_their_order(bus: Bus) -> None:
    await bus.publish_all(numbered(*range(1203)))
    assert await kept(bus) == list(range(1203))


async def test_of_messages_sent_again_each_is_stored_once(bus: Bus) -> None:
    await bus.publish_all(numbered(1, 2, 3))
    await bus.publish_all(numbered(1, 2, 3))
    await bus.publish_all(numbered(3, 4, 5))
    await bus.publish_all([])
    assert await kept(bus) == [1, 2, 3, 4, 5]


async def test_messages_of_no_stream_are_unavailable(bus: Bus) -> None:
    with pytest.raises(Unavailable, match=r"nowhere\.at\.all"):
        await bus.publish_all([NewMessage("nowhere.at.all", b"", f"id-{n}") for n in range(2)])


def test_batches_are_bounded_in_number_and_bytes() -> None:
    many = numbered(*range(MOST + 1))
    assert [len(batch) for batch in batches_of(many)] == [MOST, 1]
    large = [NewMessage("reject.x", bytes(MOST_BYTES // 2), f"{n}") for n in range(3)]
    assert [len(batch) for batch in batches_of(large)] == [2, 1]


async def test_a_subject_of_no_stream_is_unavailable(bus: Bus) -> None:
    with pytest.raises(Unavailable, match=r"nowhere\.at\.all"):
        await bus.publish("nowhere.at.all", b"", "id")


async def test_follow_gives_the_wanted_subjects_in_order_from_a_sequence(bus: Bus) -> None:
    for n in range(6):
        await bus.publish(subjects.reading(n % 2), f"{n}".encode(), f"id-{n}")
    seen = []
    follower = await bus.follow(subjects.READINGS_STREAM, [subjects.reading(1), subjects.control(1)], 3, seen.append)
    await bus.publish(subjects.control(1), b"control", "id-c")
    await until(lambda: len(seen) == 3)
    assert [(m.sequence, m.payload) for m in seen] == [(4, b"3"), (6, b"5"), (7, b"control")]
    assert seen[0].stored_us > 1_700_000_000_000_000
    await follower.stop()


async def test_follow_goes_on_after_the_server_was_killed(bus: Bus, nats_server: NatsServer) -> None:
    seen = []
    follower = await bus.follow(subjects.READINGS_STREAM, [subjects.reading(0)], 1, seen.append)
    await bus.publish(subjects.reading(0), b"before", "a")
    await until(lambda: len(seen) == 1)
    nats_server.kill()
    await nats_server.start()
    async with asyncio.timeout(20):
        while True:
            try:
                await bus.publish(subjects.reading(0), b"after", "b")
                break
            except Unavailable:
                await asyncio.sleep(0.05)
    await until(lambda: len(seen) == 2, deadline_s=15)
    assert [m.payload for m in seen] == [b"before", b"after"]
    await follower.stop()


async def test_a_paused_follower_is_sent_no_more_than_the_window(bus: Bus) -> None:
    seen = []
    follower = await bus.follow(subjects.READINGS_STREAM, [subjects.reading(0)], 1, seen.append)
    follower.pause()
    for n in range(40):
        await bus.publish(subjects.reading(0), bytes(200_000), f"id-{n}")
    held = len(seen)
    follower.resume()
    await until(lambda: len(seen) == 40)
    assert held < 40
    await follower.stop()


async def test_ask_brings_the_answer_or_the_error_of_the_other_side(bus: Bus) -> None:
    async def handler(payload: bytes, subject: str) -> bytes | pa.Table:
        if payload == b"table":
            return pa.table({"n": list(range(2_000_000))})
        if payload == b"missing":
            raise NotFound("device 'mon-7' is unknown here")
        return payload.upper() + subject.encode()

    await bus.answer("shard.5", handler)
    assert await bus.ask("shard.5", b"hello ") == b"HELLO shard.5"
    assert (await bus.ask_table("shard.5", b"table")).num_rows == 2_000_000
    with pytest.raises(NotFound, match="mon-7"):
        await bus.ask("shard.5", b"missing")
    with pytest.raises(Unavailable, match=r"shard\.6"):
        await bus.ask("shard.6", b"anyone")


@pytest.mark.clause("9.3d")
async def test_streams_that_are_there_outlive_a_second_start_and_the_death_of_the_server(nats_server: NatsServer) -> None:
    """Found by fault seed 6: a first sequence beyond the stream's own empties it when the server starts next."""
    limits = {"max_stream_bytes": 2**30, "retention_s": 86_400, "duplicate_window_s": 600}
    bus = await Bus.connect(nats_server.url, TOKEN, "before")
    for n in range(10):
        await bus.publish(subjects.reading(0), b"frame", f"id-{n}")
    await bus.ensure_streams(**limits, beginnings={subjects.READINGS_STREAM: 12})
    await bus.publish(subjects.reading(0), b"not in the lake yet", "id-10")
    await bus.close()
    nats_server.kill()
    await nats_server.start()
    bus = await Bus.connect(nats_server.url, TOKEN, "after")
    state = await bus.stream_state(subjects.READINGS_STREAM)
    assert (state.first_sequence, state.last_sequence, state.messages) == (1, 11, 11)
    await bus.close()


async def test_records_of_the_access_log_stay_however_old(bus: Bus) -> None:
    config = (await bus._jetstream.stream_info(subjects.AUDIT_STREAM)).config
    assert (config.max_age, config.duplicate_window) == (0, 600)


async def test_a_stream_that_cannot_be_followed_is_unavailable(bus: Bus) -> None:
    with pytest.raises(Unavailable, match=r"stream NOWHERE cannot be followed"):
        await bus.follow("NOWHERE", ["nowhere.>"], 1, lambda _: None)


async def test_a_server_that_stands_still_does_not_answer_and_the_connection_outlives_it(
    bus: Bus, nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Found with a stopped nats-server: a pong that came after its time-out ended the connection."""
    assert await bus.is_answering(5.0)
    assert nats_server.pid is not None
    os.kill(nats_server.pid, signal.SIGSTOP)
    try:
        assert not await bus.is_answering(0.1)
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)
    assert await bus.is_answering(5.0)
    assert await bus.publish(subjects.reading(3), b"frame", "id-1") == 1
    assert caplog.records == []
