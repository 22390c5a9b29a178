"""Messages that were captured and are sent again, at both doors: nothing is stored twice, and whoever sends them is told.

A device that did not see its acknowledgement sends the same again, and gets it.
"""

from __future__ import annotations

import json
import math

import httpx
import pytest

from domain.frames import encode_frame
from domain.messages import SecurityKind
from domain.readings import ReadingBatch
from gateways.http_door import http_door
from gateways.mqtt import encode_publish
from gateways.mqtt_packets import Ack, PacketKind
from runtime.receipts import StreamReceipts
from runtime.replays import MOST_TIMES, RECENT, Replays
from tests.doors import GATEWAY, MONITOR, NOW_US, clock, run, served
from tests.mqtt_peer import READINGS, Raw, opened
from tests.waiting import until

pytestmark = pytest.mark.integration
FRAMES = "v1/devices/me/frames"


@pytest.fixture
async def stage():
    async with opened(replays=Replays(-math.inf)) as opened_stage:  # a door that has been open for long
        yield opened_stage


def said(number: int, **more) -> bytes:
    """A message of the monitor, with its time, as it is captured."""
    time_ms = NOW_US // 1_000 - 3_600_000 + 1_000 * number
    return json.dumps({"metric": "heart_rate", "value": 60 + number % 40, "seq": number, "time": time_ms, **more}).encode()


def framed(number: int, at_us: int | None = None) -> bytes:
    """A frame of the gateway for three devices; its readings are numbered by it."""
    readings = ReadingBatch.of(
        handle=[7, 8, 9], metric=1, time_us=at_us or NOW_US - 3_600_000_000 + number * 1_000_000, value=70.0 + number % 9,
        source=GATEWAY.handle, sequence=[3 * number - 2, 3 * number - 1, 3 * number],
    )  # fmt: skip
    return encode_frame(readings, source=GATEWAY.handle, sequence=number, arrival_us=NOW_US)


async def send(raw: Raw, payload: bytes, topic: str = READINGS, packet: int = 1, *, dup: bool = False) -> None:
    raw.send(encode_publish(topic, payload, 1, packet, dup=dup))
    assert await raw.next() == Ack(PacketKind.PUBACK, packet)


async def fill(raw: Raw, made, topic: str, count: int = RECENT + 20) -> None:
    for number in range(1, count + 1):
        await send(raw, made(number), topic)


@pytest.mark.clause("5.4a", "9.4")
@pytest.mark.parametrize(("token", "topic", "made"), [("monitor", READINGS, said), ("gateway", FRAMES, framed)])
async def test_a_replayed_capture_stores_nothing_and_is_told_counted_kept_and_reported(stage, token, topic, made) -> None:
    device = await Raw.connect(stage.port, f"token-of-{token}")
    await fill(device, made, topic)
    stored = len(stage.bus.readings())
    thief = await Raw.connect(stage.port, f"token-of-{token}")  # takes its place
    await thief.listen_to_errors()
    for packet in (1, 2, 3):
        thief.send(encode_publish(topic, made(5), 1, packet))
        told = await thief.next_error()
        assert (told["reason"], told["topic"]) == ("replayed", topic)
        assert await thief.next() == Ack(PacketKind.PUBACK, packet)
    assert len(stage.bus.readings()) == stored
    assert stage.door.counters.rejects == {"replayed": 3}
    assert {(reject.reason, reject.payload) for reject in stage.bus.rejects()} == {("replayed", made(5))}
    await until(lambda: len(stage.bus.notices()) == 2)
    sender = stage.identities.tokens[f"token-of-{token}"]
    assert [(n.handle, n.kind, n.is_alarm) for n in stage.bus.notices()] == [
        (sender.handle, SecurityKind.REPLAY, False), (sender.handle, SecurityKind.REPLAY, True),
    ]  # fmt: skip


@pytest.mark.clause("5.4a", "5.4c")
async def test_who_did_not_see_its_acknowledgement_is_acknowledged_again_and_stored_once(stage) -> None:
    device = await Raw.connect(stage.port, "token-of-monitor")
    await fill(device, said, READINGS, 10)
    device.drop()
    again = await Raw.connect(stage.port, "token-of-monitor")
    for packet in range(5, 11):
        await send(again, said(packet), packet=packet, dup=True)
    await send(again, said(11))
    assert sorted(stage.bus.readings().sequence.tolist()) == list(range(1, 12))
    assert stage.door.counters.rejects == {}
    assert stage.intake.counters.repeated == 6
    assert stage.bus.notices() == []


@pytest.mark.clause("5.4c")
async def test_what_was_not_stored_is_no_retransmission(stage) -> None:
    """The stream did not acknowledge: the same message again is stored."""
    device = await Raw.connect(stage.port, "token-of-monitor")
    stage.bus.hold()
    device.send(encode_publish(READINGS, said(1), 1, 1))
    await until(lambda: stage.bus.tries == 2)  # the event `online`, and the frame
    device.drop()
    stage.bus.release()
    again = await Raw.connect(stage.port, "token-of-monitor")
    await send(again, said(1), dup=True)
    assert set(stage.bus.readings().sequence.tolist()) == {1}


@pytest.mark.clause("9.4")
async def test_a_message_that_comes_again_and_again_is_no_retransmission(stage) -> None:
    device = await Raw.connect(stage.port, "token-of-monitor")
    await fill(device, said, READINGS, 3)
    for _ in range(MOST_TIMES + 4):
        await send(device, said(2))
    assert len(stage.bus.readings()) == 3
    assert stage.door.counters.rejects == {"replayed": 4}


async def test_hours_that_a_gateway_held_back_are_taken_after_what_is_live(stage) -> None:
    gateway = await Raw.connect(stage.port, "token-of-gateway")
    await fill(gateway, framed, FRAMES, 5)
    for number in range(1_000, 1_000 + RECENT + 5):
        await send(gateway, framed(number), FRAMES)
    for number in range(6, 12):
        await send(gateway, framed(number, NOW_US - 7_200_000_000 + number), FRAMES)
    assert stage.door.counters.rejects == {}
    assert len(set(stage.bus.readings().sequence.tolist())) == 3 * (5 + RECENT + 5 + 6)


async def test_a_device_that_counts_anew_states_its_boot_or_a_later_time(stage) -> None:
    device = await Raw.connect(stage.port, "token-of-monitor")
    untimed = [json.dumps({"metric": "heart_rate", "value": 70, "seq": n, "boot": b}).encode() for b in (1, 2) for n in (1, 2)]
    for payload in untimed:
        await send(device, payload)
    assert stage.bus.readings().sequence.tolist() == [2**32 + 1, 2**32 + 2, 2 * 2**32 + 1, 2 * 2**32 + 2]
    assert stage.door.counters.rejects == {}
    await send(device, b'{"metric": "heart_rate", "value": 70, "boot": 3}')
    assert stage.door.counters.rejects == {"malformed-value": 1}


def untimed(number: int, value: int = 70) -> bytes:
    return json.dumps({"metric": "heart_rate", "value": value, "seq": number}).encode()


@pytest.mark.clause("5.4a", "9.4")
async def test_a_monitor_without_a_clock_that_was_switched_off_and_on_is_stored_at_once_and_told(stage) -> None:
    stage.door.clock = stage.intake._clock = now = clock()
    device = await Raw.connect(stage.port, "token-of-monitor")
    for number in range(1, RECENT + 20):
        now.advance(1)
        await send(device, untimed(number))
    now.advance(2)
    await send(device, untimed(1, 71))
    assert stage.door.counters.rejects == {"replayed": 1}  # it spoke a moment ago
    device.drop()
    now.advance(8)
    again = await Raw.connect(stage.port, "token-of-monitor")
    for number in range(1, 6):
        now.advance(1)
        await send(again, untimed(number, 71))
    assert stage.bus.readings().sequence.tolist()[-5:] == [1, 2, 3, 4, 5]
    assert stage.door.counters.rejects == {"replayed": 1}
    await until(lambda: len(stage.bus.notices()) == 2)
    assert [(notice.kind, notice.count, notice.is_alarm) for notice in stage.bus.notices()] == [
        (SecurityKind.REPLAY, 1, False), (SecurityKind.COUNTS_ANEW, 1, False),
    ]  # fmt: skip


@pytest.mark.clause("5.4a", "9.4")
async def test_over_http_a_capture_is_refused_and_a_repetition_answered_with_its_receipt(stage) -> None:
    app = http_door(stage.identities, stage.intake, clock(), StreamReceipts(stage.bus), watch=stage.door.watch)
    headers = {"Authorization": "Bearer token-of-monitor", "Content-Type": "application/json"}
    async with served(app) as url, httpx.AsyncClient(headers=headers) as client:
        first = [(await client.post(f"{url}/v1/readings", content=said(n))).json() for n in range(1, RECENT + 20)]
        again = await client.post(f"{url}/v1/readings", content=said(RECENT))
        assert (again.status_code, again.json()) == (200, first[RECENT - 1])
        replayed = await client.post(f"{url}/v1/readings", content=said(3))
        assert (replayed.status_code, replayed.json()["code"]) == (422, "replayed")
        keyed = await client.post(f"{url}/v1/readings", content=said(4), headers={"Idempotency-Key": "captured"})
        assert (keyed.status_code, keyed.json()["code"]) == (422, "replayed")
    assert len(stage.bus.readings()) == RECENT + 19
    assert len(stage.bus.rejects()) == 2


@pytest.mark.clause("5.4a")
async def test_mosquitto_sends_a_capture(stage) -> None:
    await fill(await Raw.connect(stage.port, "token-of-monitor"), said, READINGS)
    code, output = await run(
        "mosquitto_pub", "-h", "127.0.0.1", "-p", str(stage.port), "-u", "token-of-monitor", "-q", "1", "-t", READINGS,
        "-m", said(9).decode(),
    )  # fmt: skip
    assert (code, output) == (0, "")
    assert stage.door.counters.rejects == {"replayed": 1}
    assert len(stage.bus.readings()) == RECENT + 20
    assert MONITOR.handle == stage.bus.readings().handle[0]
