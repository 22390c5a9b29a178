"""A sender that sends more than it may, at both doors: it waits, nobody else does, and nothing of it is lost."""

from __future__ import annotations

import asyncio

import httpx
import msgspec
import pytest

from domain.frames import encode_frame
from domain.messages import SecurityKind
from domain.readings import ReadingBatch
from gateways.bodies import MOST_BODIES
from gateways.device_client import DeviceClient
from gateways.http_door import http_door
from gateways.mqtt import encode, encode_publish
from gateways.mqtt_packets import Ack, PacketKind, Simple, Subscribe
from gateways.paces import PaceLimits
from runtime.receipts import StreamReceipts
from tests.doors import CUFF, GATEWAY, MONITOR, NOW_US, clock, served
from tests.mqtt_peer import HR_72, READINGS, Raw, opened
from tests.waiting import eventually, until

pytestmark = pytest.mark.integration
LIMITS = PaceLimits(device_readings_a_s=10.0, gateway_readings_a_s=100.0, burst_s=2.0)
JSON = {"Content-Type": "application/json"}
PING, PONG = encode(Simple(PacketKind.PINGREQ)), Simple(PacketKind.PINGRESP)


def hr(sequence: int) -> dict:
    return {"metric": "heart_rate", "value": 60 + sequence % 40, "seq": sequence}


class Time:
    """A clock that stands until the test moves it."""

    now_s = 1000.0


@pytest.fixture
async def stage():
    time = Time()
    async with opened(pace=LIMITS, now_s=lambda: time.now_s) as opened_stage:
        opened_stage.time = time
        app = http_door(
            opened_stage.identities, opened_stage.intake, clock(), StreamReceipts(opened_stage.bus),
            watch=opened_stage.door.watch,
        )  # fmt: skip
        async with served(app) as url, httpx.AsyncClient(base_url=url, trust_env=False) as http:
            opened_stage.http, opened_stage.app = http, app
            yield opened_stage


async def post(stage, body, token: str = "token-of-monitor", **headers: str) -> httpx.Response:
    return await stage.http.post("/v1/readings", json=body, headers=JSON | {"Authorization": f"Bearer {token}"} | headers)


def stored(stage, handle: int) -> list[int]:
    """The numbers of its readings, as they came."""
    readings = stage.bus.readings()
    return readings.sequence[readings.handle == handle].tolist()


@pytest.mark.clause("8.1", "9.1b")
async def test_over_mqtt_who_sends_too_much_is_read_no_further_and_acknowledged_later(stage) -> None:
    flooder, honest = await Raw.connect(stage.port, "token-of-monitor"), await Raw.connect(stage.port, "token-of-cuff")
    flooder.send(*(encode_publish(READINGS, HR_72, 1, number) for number in range(1, 61)))
    for number in range(1, 22):  # the burst of 20, and what takes it below nothing
        assert await flooder.next() == Ack(PacketKind.PUBACK, number)
    await until(lambda: stage.door.counters.held == 1)
    for number in range(1, 11):
        honest.send(encode_publish(READINGS, b'{"metric": "nibp_sys", "value": 120}', 1, number))
        assert await honest.next() == Ack(PacketKind.PUBACK, number)
    assert stage.door.counters.messages == 21 + 10
    stage.time.now_s += 1.0
    for number in range(22, 32):
        assert await flooder.next() == Ack(PacketKind.PUBACK, number)
    stage.time.now_s += 100.0
    for number in range(32, 53):
        assert await flooder.next() == Ack(PacketKind.PUBACK, number)
    stage.time.now_s += 100.0
    for number in range(53, 61):
        assert await flooder.next() == Ack(PacketKind.PUBACK, number)
    assert (stage.bus.readings().handle == MONITOR.handle).sum() == 60


async def test_a_new_connection_gains_nothing(stage) -> None:
    first = await Raw.connect(stage.port, "token-of-monitor")
    first.send(encode_publish(READINGS, b"[" + b",".join([HR_72] * 50) + b"]", 1, 1))
    assert await first.next() == Ack(PacketKind.PUBACK, 1)
    second = await Raw.connect(stage.port, "token-of-monitor", client_id="again")
    second.send(encode_publish(READINGS, HR_72, 1, 1), encode_publish(READINGS, HR_72, 1, 2))
    await until(lambda: stage.door.counters.held == 1)
    assert stage.door.counters.messages == 1
    stage.time.now_s += 3.2
    assert await second.next() == Ack(PacketKind.PUBACK, 1)


@pytest.mark.clause("8.1", "9.1b")
async def test_over_http_who_sends_too_much_is_told_when_to_come_again(stage) -> None:
    assert (await post(stage, [hr(n) for n in range(1, 51)])).status_code == 200
    refused = await post(stage, hr(51), **{"Idempotency-Key": "a"})
    problem = refused.json()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")
    assert refused.headers["content-type"] == "application/problem+json"
    assert (problem["code"], problem["status"]) == ("too-many-readings", 429)
    assert (await post(stage, {"metric": "nibp_sys", "value": 120}, "token-of-cuff")).status_code == 200
    stage.time.now_s += 3.0
    assert (await post(stage, hr(51), **{"Idempotency-Key": "a"})).status_code == 200
    assert stored(stage, MONITOR.handle) == list(range(1, 52))
    assert (stage.app.state.counters.held, stage.app.state.counters.unavailable) == (1, 0)
    assert stage.bus.rejects() == []


async def test_many_requests_at_once_gain_nothing(stage) -> None:
    answers = await asyncio.gather(*(post(stage, [hr(100 * n + m) for m in range(15)]) for n in range(1, 21)))
    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [429] * 18
    assert len(stored(stage, MONITOR.handle)) == 30


async def test_a_sender_has_one_measure_at_both_doors_and_a_refused_message_counts_too(stage) -> None:
    for _ in range(21):
        assert (await post(stage, {"metric": "unheard-of", "value": 1})).status_code == 422
    raw = await Raw.connect(stage.port, "token-of-monitor")
    raw.send(encode_publish(READINGS, HR_72, 1, 1), encode_publish(READINGS, HR_72, 1, 2))
    await until(lambda: stage.door.counters.held == 1)
    assert stage.door.counters.messages == 0
    assert (await post(stage, HR_72.decode())).status_code == 429


async def test_frames_of_a_gateway_count_by_their_readings(stage) -> None:
    batch = ReadingBatch.of(
        handle=[MONITOR.handle, CUFF.handle] * 150, metric=1, time_us=NOW_US, value=72.0, source=GATEWAY.handle,
        sequence=range(1, 301),
    )  # fmt: skip
    frame = encode_frame(batch, source=0, sequence=0, arrival_us=0)
    gateway = await Raw.connect(stage.port, "token-of-gateway")
    gateway.send(*(encode_publish("v1/devices/me/frames", frame, 1, number) for number in (1, 2)))
    assert await gateway.next() == Ack(PacketKind.PUBACK, 1)
    await until(lambda: stage.door.counters.held == 1)
    assert stage.door.watch.paces.of(GATEWAY).left == pytest.approx(-100.0)
    stage.time.now_s += 1.0
    assert await gateway.next() == Ack(PacketKind.PUBACK, 2)


@pytest.mark.clause("8.1", "9.4")
async def test_what_a_device_kept_in_an_outage_comes_slower_and_whole_on_one_connection(stage) -> None:
    client = DeviceClient("127.0.0.1", stage.port, "token-of-monitor")
    await client.connect()
    kept = [client.start(READINGS, msgspec.json.encode([hr(5 * n + m) for m in range(1, 6)])) for n in range(30)]
    while not all(message.done() for message in kept):
        left = client.unacknowledged
        stage.time.now_s += 2.0
        await until(lambda left=left: client.unacknowledged < left)
    await asyncio.gather(*kept)
    assert stored(stage, MONITOR.handle) == list(range(1, 151))
    assert client.reconnects == 0
    assert (stage.door.counters.held, stage.door.counters.unavailable) == (1, 0)
    await client.close()


@pytest.mark.clause("9.1b", "9.4")
async def test_who_floods_is_a_security_event_of_the_true_sender(stage) -> None:
    raw = await Raw.connect(stage.port, "token-of-monitor")
    raw.send(*(encode_publish(READINGS, HR_72, 1, number) for number in range(1, 2000)))
    for _ in range(5):
        messages = stage.door.counters.messages
        stage.time.now_s += 1.5
        await until(lambda messages=messages: stage.door.counters.messages > messages)
    await until(stage.bus.notices)
    (notice,) = stage.bus.notices()
    assert (notice.handle, notice.kind, notice.door, notice.is_alarm) == (7, SecurityKind.FLOODS, "mqtt", False)
    assert "10 readings a second" in notice.detail


@pytest.mark.clause("8.1", "9.1b")
async def test_pings_and_topics_count_too_and_who_sends_many_is_told(stage) -> None:
    raw = await Raw.connect(stage.port, "token-of-monitor")
    raw.send(PING * 40)
    for _ in range(21):
        assert await raw.next() == PONG
    await until(lambda: stage.door.counters.held == 1)
    stage.time.now_s += 100.0
    for _ in range(19):
        assert await raw.next() == PONG
    pace = stage.door.watch.paces.of(MONITOR)
    raw.send(encode(Subscribe(1, tuple((f"topic-{number}", 1) for number in range(10)))), PING * 80)
    assert (await raw.next()).packet_id == 1
    assert pace.left == -9
    for pongs in (7, 15, 15, 15, 15):
        stage.time.now_s += 1.5
        for _ in range(pongs):
            assert await raw.next() == PONG
    await until(stage.bus.notices)
    assert [notice.kind for notice in stage.bus.notices()] == [SecurityKind.FLOODS]


@pytest.mark.clause("8.1", "9.1b")
async def test_receipts_that_are_looked_up_count_too(stage) -> None:
    receipt = (await post(stage, [hr(number) for number in range(1, 10)])).json()["receipt"]

    async def looked_up(token: str = "token-of-monitor") -> httpx.Response:
        return await stage.http.get(f"/v1/receipts/{receipt}", headers={"Authorization": f"Bearer {token}"})

    assert [(await looked_up()).status_code for _ in range(13)] == [200] * 12 + [429]
    assert (await looked_up("token-of-cuff")).status_code == 404
    stage.time.now_s += 0.5
    assert (await looked_up()).status_code == 200


@pytest.mark.clause("8.1", "9.1b")
async def test_of_bodies_that_do_not_come_a_sender_has_few_under_way_and_others_are_heard(stage) -> None:
    begun = (
        "POST /v1/readings HTTP/1.1\r\nHost: door\r\nAuthorization: Bearer token-of-monitor\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n["
    )
    slow = [await Raw.connect(stage.http.base_url.port) for _ in range(MOST_BODIES)]
    try:
        for peer in slow:
            peer.send(begun.encode())
        await until(lambda: stage.app.state.counters.messages == MOST_BODIES)
        refused = await post(stage, hr(1))
        assert (refused.status_code, refused.headers["retry-after"], refused.json()["code"]) == (429, "2", "too-many-requests")
        assert (await post(stage, {"metric": "nibp_sys", "value": 120}, "token-of-cuff")).status_code == 200
    finally:
        for peer in slow:  # the door waits for them when it closes
            peer.drop()

    async def is_heard() -> bool:
        return (await post(stage, hr(1))).status_code == 200

    await eventually(is_heard)
    assert stored(stage, MONITOR.handle) == [1]
    assert stage.app.state.counters.unavailable == 0
