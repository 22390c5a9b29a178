"""Every place where a message says whose it is, besides its connection, and what comes of claiming another's.

The credential alone says who speaks. What is claimed is refused with its reason, counted, and told of the true sender.
"""

from __future__ import annotations

import json

import httpx
import pytest

from domain.frames import encode_frame
from domain.messages import SecurityKind
from domain.readings import ReadingBatch
from gateways.http_door import http_door
from gateways.mqtt import encode_publish
from gateways.mqtt_packets import Ack, PacketKind
from runtime.receipts import StreamReceipts
from tests.doors import CUFF, GATEWAY, MONITOR, NOW_US, clock, served
from tests.mqtt_peer import Raw, opened
from tests.waiting import until

pytestmark = pytest.mark.integration
FOREIGN = 5_000  # of another hospital
FRAME, READINGS, EVENTS = "v1/devices/me/frames", "v1/devices/me/readings", "v1/devices/me/events"
PATHS = {FRAME: "/v1/frames", READINGS: "/v1/readings", EVENTS: "/v1/events"}
TYPES = {FRAME: "application/vnd.vitalgrid.frame"}


def frame(handle: int, source: int | None = None, header: int = 1) -> bytes:
    readings = ReadingBatch.of(handle=handle, metric=1, time_us=NOW_US, value=72.0, source=source or handle, sequence=1)
    return encode_frame(readings, source=header, sequence=1, arrival_us=NOW_US)


# whose token, topic, what it says, why it is refused
CLAIMS = {
    "a frame of another device": ("monitor", FRAME, frame(CUFF.handle), "unknown-device"),
    "a frame of another device, numbered as one's own": (
        "monitor", FRAME, frame(CUFF.handle, MONITOR.handle), "unknown-device",
    ),
    "one's own readings, numbered in the name of another": (
        "monitor", FRAME, frame(MONITOR.handle, CUFF.handle), "wrong-source",
    ),
    "a gateway for a device of another hospital": ("gateway", FRAME, frame(FOREIGN, GATEWAY.handle), "unknown-device"),
    "a gateway, numbered as a third": ("gateway", FRAME, frame(MONITOR.handle, CUFF.handle), "wrong-source"),
    "an event of another device": (
        "monitor", EVENTS, json.dumps({"event": "battery_low", "handle": CUFF.handle}).encode(), "unknown-device",
    ),
    "a gateway's event of a device of another hospital": (
        "gateway", EVENTS, json.dumps({"event": "offline", "handle": FOREIGN}).encode(), "unknown-device",
    ),
}  # fmt: skip
# what is not a field at all, so that a message cannot say it
UNKNOWN_FIELDS = [
    (READINGS, {"metric": "nibp_sys", "value": 120, name: value})
    for name, value in (
        ("handle", 7), ("device", "mon-7"), ("device_id", "sz.h001/mon-7"), ("hospital", "sz.h002"), ("source", 7),
    )
]  # fmt: skip


@pytest.fixture
async def stage():
    async with opened() as opened_stage:
        yield opened_stage


@pytest.mark.clause("5.4a", "9.4")
@pytest.mark.parametrize("claim", CLAIMS)
async def test_over_mqtt_a_claim_is_refused_and_told_of_the_true_sender(stage, claim: str) -> None:
    who, topic, payload, reason = CLAIMS[claim]
    raw = await Raw.connect(stage.port, f"token-of-{who}")
    await raw.listen_to_errors()
    raw.send(encode_publish(topic, payload, 1, 7))
    assert (await raw.next_error())["reason"] == reason
    assert await raw.next() == Ack(PacketKind.PUBACK, 7)
    await nothing_but_a_notice(stage, who, reason, "mqtt")
    assert stage.door.counters.rejects == {reason: 1}


@pytest.mark.clause("5.4a", "9.4")
@pytest.mark.parametrize("claim", CLAIMS)
async def test_over_http_too(stage, claim: str) -> None:
    who, topic, payload, reason = CLAIMS[claim]
    app = http_door(stage.identities, stage.intake, clock(), StreamReceipts(stage.bus), watch=stage.door.watch)
    async with served(app) as url, httpx.AsyncClient() as client:
        headers = {"Authorization": f"Bearer token-of-{who}", "Content-Type": TYPES.get(topic, "application/json")}
        answer = await client.post(f"{url}{PATHS[topic]}", content=payload, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, reason)
    await nothing_but_a_notice(stage, who, reason, "http")


async def nothing_but_a_notice(stage, who: str, reason: str, door: str) -> None:
    sender = stage.identities.tokens[f"token-of-{who}"]
    await until(stage.bus.notices)
    (notice,) = stage.bus.notices()
    assert (notice.handle, notice.hospital_id, notice.kind) == (sender.handle, sender.hospital_id, SecurityKind.SPOOFING)
    assert (notice.door, notice.address, notice.is_alarm) == (door, "127.0.0.1", False)
    (reject,) = stage.bus.rejects()
    assert (reject.reason, reject.principal, reject.hospital_id) == (reason, sender.name, sender.hospital_id)
    assert stage.bus.frames() == []
    assert [handle for handle, _, _ in stage.bus.events()] in ([], [sender.handle])  # its own `online`


@pytest.mark.clause("5.4a")
@pytest.mark.parametrize(("topic", "said"), UNKNOWN_FIELDS)
async def test_a_message_has_no_field_to_name_another_by(stage, topic: str, said: dict) -> None:
    raw = await Raw.connect(stage.port, "token-of-cuff")
    await raw.listen_to_errors()
    raw.send(encode_publish(topic, json.dumps(said).encode(), 1, 7))
    assert (await raw.next_error())["reason"] == "malformed-value"
    assert stage.bus.frames() == []


@pytest.mark.clause("5.4a")
@pytest.mark.parametrize(
    "topic", ["v1/devices/7/readings", "v1/devices/sz.h001/mon-7/readings", "v1/gateway/telemetry", "v1/devices/me/readings/7"]
)
async def test_no_topic_carries_an_id(stage, topic: str) -> None:
    raw = await Raw.connect(stage.port, "token-of-cuff")
    await raw.listen_to_errors()
    raw.send(encode_publish(topic, b'{"metric": "nibp_sys", "value": 120}', 1, 7))
    assert (await raw.next_error())["reason"] == "wrong-topic"
    assert stage.bus.frames() == []


@pytest.mark.clause("5.4a")
async def test_the_source_in_a_frames_header_and_names_in_connect_say_nothing(stage) -> None:
    """User name and client id of the monitor, and its handle in the header: what is stored is the cuff's."""
    raw = await Raw.connect(stage.port, "sz.h001/mon-7", password=b"token-of-cuff", client_id="sz.h001/mon-7")
    cuffs = ReadingBatch.of(handle=CUFF.handle, metric=6, time_us=NOW_US, value=120.0, source=0, sequence=1)
    raw.send(encode_publish(FRAME, encode_frame(cuffs, source=MONITOR.handle, sequence=1, arrival_us=NOW_US), 1, 7))
    assert await raw.next() == Ack(PacketKind.PUBACK, 7)
    assert stage.bus.readings().source.tolist() == [CUFF.handle]


@pytest.mark.clause("9.4")
async def test_attempts_that_go_on_are_an_alarm_and_are_told_once_a_minute(stage) -> None:
    raw = await Raw.connect(stage.port, "token-of-monitor")
    for number in range(1, 21):
        raw.send(encode_publish(FRAME, frame(CUFF.handle), 1, number))
        assert await raw.next() == Ack(PacketKind.PUBACK, number)
    await until(lambda: len(stage.bus.notices()) == 2)
    assert [(notice.count, notice.is_alarm) for notice in stage.bus.notices()] == [(1, False), (2, True)]
    assert len(stage.bus.rejects()) == 20
