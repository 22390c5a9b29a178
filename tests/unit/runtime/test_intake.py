"""The Intake over a bus in memory: who is answered when, what is retried, what waits, what is refused."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from domain.errors import Conflict, RejectedInput, StorageFull, Unavailable
from domain.frames import MAX_ROWS
from domain.messages import DeviceEvent, StorageLevel, StorageState
from domain.ports import Receipt
from domain.readings import NO_SEQUENCE, ReadingBatch, pack_row
from domain.thing_models import Lane
from runtime.intake import MAX_REJECT_BYTES, StreamIntake
from runtime.intake_lanes import IntakeLimits
from tests.doors import GATEWAY, MONITOR, NOW_US, DictIdentities, MemoryBus, assert_same_rows, clock
from tests.waiting import until


def rows(count=1, handle=7, **columns):
    return ReadingBatch.of(handle=handle, metric=1, time_us=NOW_US + np.arange(count), value=72.0, **columns)


@pytest.fixture
def bus():
    return MemoryBus()


@pytest.fixture
def make(bus):
    def intake(now=None, **limits):
        return StreamIntake(bus, DictIdentities(), now or clock(), source=9, limits=IntakeLimits(**limits))

    return intake


@pytest.mark.clause("5.4c")
async def test_nobody_is_answered_before_the_stream_has_acknowledged(bus, make):
    bus.hold()
    answer = asyncio.ensure_future(make().submit(MONITOR, rows(3)))
    await until(lambda: bus.tries)
    assert not answer.done()
    bus.release()
    receipt = await answer
    assert (receipt.shard, receipt.stream_sequence, receipt.readings) == (3, 1, 3)
    assert_same_rows(bus.readings(), rows(3))


async def test_an_idle_intake_does_not_wait_for_company(bus, make):
    async with asyncio.timeout(5):
        await make(gather_ms=1000_000).submit(MONITOR, rows())
    assert len(bus.messages) == 1


async def test_submissions_of_one_turn_of_the_loop_are_one_frame(bus, make):
    intake = make()
    receipts = await asyncio.gather(*(intake.submit(MONITOR, rows(2)) for _ in range(50)))
    assert {r.stream_sequence for r in receipts} == {1}
    assert {r.readings for r in receipts} == {2}
    assert [frame.header.rows for frame in bus.frames()] == [100]


async def test_what_comes_while_a_group_is_on_its_way_gathers(bus, make):
    intake = make(gather_ms=1000_000)
    bus.hold()
    first = asyncio.ensure_future(intake.submit(MONITOR, rows()))
    await until(lambda: bus.tries == 1)
    rest = [asyncio.ensure_future(intake.submit(MONITOR, rows())) for _ in range(5)]
    await asyncio.sleep(0)
    assert bus.tries == 1
    bus.release()
    await asyncio.gather(first, *rest)
    assert [frame.header.rows for frame in bus.frames()] == [1, 5]


async def test_a_second_group_leaves_when_its_time_is_up_and_a_third_waits(bus, make):
    intake = make(gather_ms=1)
    bus.hold()
    answers = []
    for on_their_way in (1, 2):
        answers.append(asyncio.ensure_future(intake.submit(MONITOR, rows())))
        await until(lambda wanted=on_their_way: bus.tries == wanted)
    answers += [asyncio.ensure_future(intake.submit(MONITOR, rows())) for _ in range(3)]
    await until(lambda: intake._lanes._commits[Lane.PRIORITY].is_due)
    assert bus.tries == 2
    bus.release()
    await asyncio.gather(*answers)
    assert [frame.header.rows for frame in bus.frames()] == [1, 1, 3]


async def test_a_full_group_does_not_wait(bus, make):
    intake = make(gather_ms=1000_000, gather_readings=10)
    bus.hold()
    first = asyncio.ensure_future(intake.submit(MONITOR, rows()))
    await until(lambda: bus.tries == 1)
    second = asyncio.ensure_future(intake.submit(MONITOR, rows(10)))
    await until(lambda: bus.tries == 2)
    bus.release()
    await asyncio.gather(first, second)


async def test_one_frame_for_each_shard_numbered_by_shard(bus, make):
    intake = make()
    for _ in range(2):
        receipt = await intake.submit(GATEWAY, rows(4, handle=[7, 1001, 8, 1002]))
        assert receipt.readings == 4
    assert [(f.header.source, f.header.sequence, len(f.readings)) for f in bus.frames(3)] == [(9, 1, 2), (9, 2, 2)]
    assert [f.header.sequence for f in bus.frames(5)] == [1, 2]
    assert bus.frames(3)[0].readings.handle.tolist() == [7, 8]


async def test_more_rows_than_a_frame_holds_are_split(bus, make):
    receipt = await make().submit(MONITOR, rows(MAX_ROWS + 5))
    assert [frame.header.rows for frame in bus.frames()] == [MAX_ROWS, 5]
    assert receipt.readings == MAX_ROWS + 5
    assert_same_rows(bus.readings(), rows(MAX_ROWS + 5))


@pytest.mark.clause("5.4c")
async def test_a_lost_acknowledgement_is_retried_and_stored_once(bus, make):
    bus.lost = 2
    intake = make()
    receipt = await intake.submit(MONITOR, rows())
    assert (receipt.stream_sequence, len(bus.messages), bus.tries, intake.counters.retries) == (1, 1, 3, 2)


async def test_a_stream_that_does_not_answer_is_unavailable_to_the_sender(bus, make):
    bus.failures = 10**6
    intake = make(ack_timeout_s=0.15)
    with pytest.raises(Unavailable, match=r"0\.15 s"):
        await intake.submit(MONITOR, rows())
    await until(lambda: intake.counters.held_readings == 0)
    bus.failures = 0
    assert (await intake.submit(MONITOR, rows())).stream_sequence == 1


async def test_an_unexpected_error_leaves_no_sender_waiting(bus, make):
    async def broken(*_):
        raise RuntimeError("boom")

    bus.publish = broken
    with pytest.raises(Unavailable, match="send them again"):
        await make().submit(MONITOR, rows())


@pytest.mark.clause("7.3")
async def test_a_full_intake_holds_senders_back_in_order(bus, make):
    intake = make(max_pending_readings=10)
    bus.hold()
    taken = asyncio.ensure_future(intake.submit(MONITOR, rows(8)))
    waiting = [asyncio.ensure_future(intake.submit(MONITOR, rows(n))) for n in (5, 1)]
    await until(lambda: bus.tries == 1)
    assert intake.counters.held_readings == 8
    bus.release()
    await asyncio.gather(taken, *waiting)
    assert [frame.header.rows for frame in bus.frames()] == [8, 6]
    await until(lambda: intake.counters.held_readings == 0)


async def test_a_sender_held_back_too_long_is_told_so(bus, make):
    intake = make(max_pending_readings=10, ack_timeout_s=0.1)
    bus.hold()
    first = asyncio.ensure_future(intake.submit(MONITOR, rows(10)))
    with pytest.raises(Unavailable, match="10 readings wait"):
        await intake.submit(MONITOR, rows())
    with pytest.raises(Unavailable):
        await first


async def test_a_batch_larger_than_all_room_still_passes_alone(bus, make):
    assert (await make(max_pending_readings=10).submit(MONITOR, rows(50))).readings == 50


@pytest.mark.clause("8.1")
@pytest.mark.parametrize(
    ("sender", "handles", "reason"),
    [(MONITOR, [7, 8], "unknown-device"), (GATEWAY, [7, 5000], "unknown-device"), (MONITOR, [], "empty-message"),
     (GATEWAY, [], "empty-message")],
)  # fmt: skip
async def test_readings_of_a_device_that_is_not_the_senders_are_refused_whole(bus, make, sender, handles, reason):
    batch = rows(len(handles), handle=handles) if handles else ReadingBatch.empty()
    with pytest.raises(RejectedInput) as refused:
        await make().submit(sender, batch)
    assert refused.value.reason == reason
    assert bus.messages == []


async def test_packed_rows_are_stored_as_columns_are(bus, make):
    packed = b"".join(pack_row(7, 0, 1, NOW_US + n, 72.0, 0, 7, n, np.nan, 0) for n in range(1, 4))
    intake = make()
    first, second, third = await asyncio.gather(
        intake.submit_packed(MONITOR, packed), intake.submit(MONITOR, rows()), intake.submit_packed(MONITOR, packed)
    )
    assert (first.readings, second.readings, third.readings) == (3, 1, 3)
    assert_same_rows(bus.readings(), ReadingBatch.concat([*[ReadingBatch.from_rows(packed)] * 2, rows()]))
    assert bus.readings().sequence.tolist() == [1, 2, 3, 1, 2, 3, 0]


async def test_packed_rows_over_a_frame_are_split(bus, make):
    packed = pack_row(7, 0, 1, NOW_US, 72.0, 0, 7, 1, np.nan, 0) * (MAX_ROWS + 1)
    assert (await make().submit_packed(MONITOR, packed)).readings == MAX_ROWS + 1
    assert [frame.header.rows for frame in bus.frames()] == [MAX_ROWS, 1]


async def test_arrival_is_what_the_clock_says_also_when_it_was_set_back(bus, make):
    """Shards see to it that their time does not go back; what is made up here they could not tell from the truth."""
    now = clock()
    intake = make(now)
    await intake.submit(MONITOR, rows())
    now.advance(-60)
    await intake.submit(MONITOR, rows())
    assert [frame.header.arrival_us for frame in bus.frames()] == [NOW_US, NOW_US - 60_000_000]


async def test_a_door_that_starts_again_reuses_no_message_id(bus, make):
    assert (await make().submit(MONITOR, rows())).stream_sequence == 1
    assert (await make().submit(MONITOR, rows())).stream_sequence == 2


async def test_close_stores_what_was_taken_and_takes_no_more(bus, make):
    intake = make(gather_ms=1000_000)
    bus.hold()
    taken = [asyncio.ensure_future(intake.submit(MONITOR, rows())) for _ in range(3)]
    await until(lambda: bus.tries == 1)
    taken.append(asyncio.ensure_future(intake.submit(MONITOR, rows())))
    closing = asyncio.ensure_future(intake.close())
    await until(lambda: bus.tries == 2)
    bus.release()
    await closing
    assert all(answer.done() and answer.exception() is None for answer in taken)
    with pytest.raises(Unavailable, match="closing"):
        await intake.submit(MONITOR, rows())


async def test_events_go_to_the_shards_control_subject(bus, make):
    await make().tell_event(DeviceEvent("sz.h001", 7, "offline", NOW_US, "battery"), 3)
    assert bus.messages[0].subject == "control.3"
    assert bus.events() == [(7, "offline", "battery")]


async def test_an_event_is_answered_by_where_it_is_kept_and_a_sender_speaks_for_its_own(bus, make):
    intake = make()
    assert await intake.submit_event(MONITOR, DeviceEvent("sz.h001", 7, "lead_off", NOW_US)) == Receipt(3, 1, 0)
    assert await intake.submit_event(GATEWAY, DeviceEvent("sz.h001", 1001, "occlusion", NOW_US)) == Receipt(5, 2, 0)
    assert [m.subject for m in bus.messages] == ["control.3", "control.5"]
    for sender, handle, sentence in ((MONITOR, 8, "only a gateway"), (GATEWAY, 5000, "not one of hospital")):
        with pytest.raises(RejectedInput, match=sentence) as refused:
            await intake.submit_event(sender, DeviceEvent("sz.h001", handle, "lead_off", NOW_US))
        assert refused.value.reason == "unknown-device"
    assert len(bus.messages) == 2


async def test_events_of_one_sender_keep_their_order_while_the_stream_is_away(bus, make):
    intake = make()
    bus.failures = 3
    names = ["lead_off", "lead_on", "battery_low", "lead_off"]
    await asyncio.gather(*(intake.submit_event(MONITOR, DeviceEvent("sz.h001", 7, name, NOW_US)) for name in names))
    assert [event for _, event, _ in bus.events()] == names


async def test_an_event_with_a_key_is_stored_once(bus, make):
    event = DeviceEvent("sz.h001", 7, "lead_off", NOW_US)
    first = await once(make(), "k", batch=event)
    assert await once(make(), "k", batch=event) == first
    assert bus.events() == [(7, "lead_off", None)]


@pytest.mark.clause("8.1")
async def test_a_reject_is_kept_with_its_reason_and_its_bytes(bus, make):
    intake = make()
    await intake.reject(door="mqtt", sender=MONITOR, topic="t", payload=b"\xff{", reason="malformed-json", detail="no JSON")
    await intake.reject(door="mqtt", sender=None, topic=None, payload=b"x" * 70_000, reason="oversize", detail="large")
    kept, cut = bus.rejects()
    assert [m.subject for m in bus.messages] == ["reject.sz.h001", "reject.unknown"]
    assert (kept.reason, kept.detail, kept.door, kept.topic) == ("malformed-json", "no JSON", "mqtt", "t")
    assert (kept.payload, kept.principal, kept.hospital_id, kept.received_us) == (b"\xff{", MONITOR.name, "sz.h001", NOW_US)
    assert len(cut.payload) == MAX_REJECT_BYTES
    assert "70000" in cut.detail
    assert kept.reject_id != cut.reject_id


# ---- idempotency keys


async def once(intake, key, body=b"body", batch=None, sender=MONITOR):
    batch = rows() if batch is None else batch
    claim = await intake.claim(sender, batch, key, body)
    return await intake.submit_once(sender, batch, claim)


@pytest.mark.clause("5.4c")
async def test_the_same_key_and_body_is_stored_once_also_by_a_door_that_started_again(bus, make):
    first = await once(make(), "k1")
    assert await once(make(), "k1") == first
    assert len(bus.frames()) == 1
    assert bus.frames()[0].header.sequence == NO_SEQUENCE
    assert await once(make(), "k2") != first


@pytest.mark.parametrize("lost_at", [1, 2, 3])
async def test_a_door_that_died_half_way_leaves_nothing_double(bus, make, lost_at):
    """Dies after the claim, after the frame, or after the receipt was stored; always before it answered."""
    dying = make(ack_timeout_s=0.02)
    publish, count = bus.publish, iter(range(1, 10))

    async def die(*args):
        sequence = await publish(*args)
        if next(count) >= lost_at:
            raise Unavailable("dead")
        return sequence

    bus.publish = die
    with pytest.raises(Unavailable):
        await once(dying, "k1")
    bus.publish = publish
    receipt = await once(make(), "k1")
    assert len(bus.frames()) == 1
    assert bus.messages[receipt.stream_sequence - 1].subject == "reading.3"


async def test_a_claim_gives_its_first_arrival_time_to_every_repeat(bus, make):
    now = clock()
    claim = await make(now).claim(MONITOR, rows(), "k1", b"body")
    now.advance(3600)
    again = await make(now).claim(MONITOR, rows(), "k1", b"body")
    assert (again.arrival_us, again.sequence) == (claim.arrival_us, claim.sequence) == (NOW_US, 1)


async def test_another_body_under_a_key_is_a_conflict(bus, make):
    await once(make(), "k1")
    with pytest.raises(Conflict, match="new key"):
        await once(make(), "k1", b"other")
    assert len(bus.frames()) == 1


async def test_keys_belong_to_their_sender(bus, make):
    await once(make(), "k1")
    await once(make(), "k1", b"other", rows(handle=100), GATEWAY)
    assert len(bus.frames()) == 2


async def test_a_key_is_free_again_after_a_day(bus, make):
    now = clock()
    await once(make(now), "k1")
    now.advance(86_401)
    assert (await once(make(now), "k1", b"other")).stream_sequence == 5


async def test_a_refused_request_does_not_use_up_its_key(bus, make):
    with pytest.raises(RejectedInput):
        await once(make(), "k1", batch=rows(handle=8))
    assert (await once(make(), "k1", b"repaired")).readings == 1


async def test_concurrent_repeats_are_stored_once(bus, make):
    intake = make()
    receipts = await asyncio.gather(*(once(intake, "k1") for _ in range(5)))
    assert len(set(receipts)) == 1
    assert len(bus.frames()) == 1


def disk(level):
    return StorageState("stream", "/nats", level, 1, f"the disk of the stream (/nats) is {level}")


async def test_without_room_readings_are_refused_at_once_with_the_reason_and_taken_again_with_room(bus, make):
    intake = make()
    intake.heed([disk(StorageLevel.LOW)])
    with pytest.raises(StorageFull, match="/nats"):
        await intake.submit(MONITOR, rows())
    with pytest.raises(StorageFull, match="/nats"):
        await intake.submit(GATEWAY, rows())
    with pytest.raises(StorageFull, match="/nats"):
        await intake.claim(MONITOR, rows(), "key", b"")
    assert not bus.messages
    intake.heed([disk(StorageLevel.OK)])
    await intake.submit(MONITOR, rows())
    assert len(bus.messages) == 1


async def test_events_and_rejects_are_taken_until_the_disk_is_full(bus, make):
    intake, event = make(), DeviceEvent(MONITOR.hospital_id, MONITOR.handle, "lead_off", NOW_US)
    intake.heed([disk(StorageLevel.LOW)])
    await intake.submit_event(MONITOR, event)
    intake.heed([disk(StorageLevel.FULL)])
    with pytest.raises(StorageFull):
        await intake.submit_event(MONITOR, event)
    with pytest.raises(StorageFull):
        await intake.reject(door="http", sender=MONITOR, topic=None, payload=b"", reason="malformed-json", detail="")
    assert len(bus.messages) == 1
