"""Device events from real clients: through the doors into the stream, and from there one alarm."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from domain import subjects
from domain.alarms import Phase
from domain.messages import DevicesRegistered, encode
from gateways.formats import EVENTS
from gateways.http_door import http_door
from gateways.mqtt_door import MqttDoor
from runtime.bus import Bus
from runtime.intake import StreamIntake
from runtime.receipts import StreamReceipts
from tests.doors import DictIdentities, run, served
from tests.host_rig import CLOCK, HostRig, alarms, applied, caught_up, rejects
from tests.mqtt_peer import ERRORS, opened
from tests.waiting import until

pytestmark = pytest.mark.integration

SHARD = 3
LEAD_OFF, LEAD_ON = '{"event": "lead_off", "detail": "electrode RA"}', '{"event": "lead_on"}'


class Device:
    """A paho client: the monitor with handle 7 of shard 3. `told` is what came on its errors topic."""

    def __init__(self, port: int) -> None:
        self.told: list[dict[str, str]] = []
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="mon-7")
        self._client.username_pw_set("token-of-monitor")
        self._client.on_connect = lambda client, *_: client.subscribe(ERRORS)
        self._client.on_message = lambda _c, _u, message: self.told.append(json.loads(message.payload))
        self._port = port

    async def __aenter__(self) -> Device:
        await asyncio.to_thread(self._client.connect, "127.0.0.1", self._port)
        self._client.loop_start()
        await until(self._client.is_connected)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def publish(self, payload: str) -> Callable[[], bool]:
        """Publish at QoS 1; tells whether the door has acknowledged it."""
        return self._client.publish(EVENTS.topic, payload, qos=1).is_published

    async def say(self, payload: str) -> None:
        await until(self.publish(payload))


@pytest.mark.clause("5.4c", "5.4e")
async def test_paho_says_an_event_and_is_acknowledged_once_the_stream_has_it() -> None:
    async with opened() as stage, Device(stage.port) as device:
        await until(stage.bus.events)  # online
        stage.bus.hold()
        acknowledged = device.publish(LEAD_OFF)
        await until(lambda: stage.bus.tries == 2)
        assert not acknowledged()
        stage.bus.release()
        await until(acknowledged)
        assert stage.bus.events()[1:] == [(7, "lead_off", "electrode RA")]


@pytest.mark.clause("8.1")
@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ('{"event": "tea_time"}', "unknown-event"),
        ("lead_off", "malformed-json"),
        ('{"event": "lead_off", "handle": 8}', "unknown-device"),
    ],
)
async def test_an_event_that_cannot_be_taken_is_told_kept_and_acknowledged(payload: str, reason: str) -> None:
    async with opened() as stage, Device(stage.port) as device:
        await device.say(payload)
        await until(lambda: device.told)
        assert (device.told[0]["reason"], device.told[0]["topic"]) == (reason, EVENTS.topic)
        (kept,) = stage.bus.rejects()
        assert (kept.reason, kept.topic, kept.payload, kept.principal) == (
            reason,
            EVENTS.topic,
            payload.encode(),
            "sz.h001/mon-7",
        )
        assert [event for _, event, _ in stage.bus.events()] == ["online"]


async def test_curl_posts_an_event_and_is_told_where_it_is_kept(bus: Bus) -> None:
    door = http_door(DictIdentities(), StreamIntake(bus, DictIdentities(), CLOCK, source=2), CLOCK, StreamReceipts(bus))
    headers = ("-H", "Authorization: Bearer token-of-monitor", "-H", "Content-Type: application/json")
    async with served(door) as url:
        path = f"{url}{EVENTS.path}"
        keyed = (*headers, "-H", "Idempotency-Key: k-1", "-d", LEAD_OFF)
        first = json.loads((await run("curl", "-sS", path, *keyed))[1])
        assert json.loads((await run("curl", "-sS", path, *keyed))[1]) == first
        refused = json.loads((await run("curl", "-sS", path, *headers, "-d", '{"event": "tea_time"}'))[1])
    assert (first["accepted"], first["receipt"].partition("-")[0], refused["code"], refused["status"]) == (
        1, "3", "unknown-event", 422,
    )  # fmt: skip
    assert [reason for reason, _ in await rejects(bus)] == ["unknown-event"]


@asynccontextmanager
async def mqtt_door(bus: Bus) -> AsyncIterator[int]:
    """The port of a door on the real bus."""
    identities = DictIdentities()
    door = MqttDoor(identities, StreamIntake(bus, identities, CLOCK, source=1), CLOCK)
    try:
        yield await door.start("127.0.0.1", 0)
    finally:
        await door.close(deadline_s=1)


@pytest.mark.clause("6.2c")
async def test_a_lead_that_is_off_is_one_alarm_until_it_is_on_again_whatever_dies_in_between(
    bus: Bus, nats_url: tuple[str, str], tmp_path: Path
) -> None:
    rig = HostRig(tmp_path, nats_url)
    device_7 = DevicesRegistered("sz.h001", [7], ["mon-7"], ["monitor@1"], ["icu"], ["b1"])
    await bus.publish(subjects.control(SHARD), encode(device_7), "registered")
    async with mqtt_door(bus) as port, Device(port) as device:
        async with rig.host(is_killed=True, shard_3=1) as host:
            await caught_up(host, SHARD, 1)
            await device.say(LEAD_OFF)
            await until(lambda: applied(host, SHARD) >= 3)  # registered, online, lead off
        async with rig.host("host-2", shard_3=2) as host:
            await device.say(LEAD_OFF)
            await device.say(LEAD_ON)
            await caught_up(host, SHARD, (await bus.stream_state(subjects.READINGS_STREAM)).last_sequence)
    start, end = await alarms(bus)
    assert (start.rule, start.phase, start.subject.device_id) == ("device.lead-off", Phase.START, "mon-7")
    assert (end.alarm_id, end.phase) == (start.alarm_id, Phase.END)
    assert "electrode" not in start.text
    assert await rejects(bus) == []


async def test_an_event_that_only_the_host_can_judge_is_kept_among_the_rejects(
    bus: Bus, nats_url: tuple[str, str], tmp_path: Path
) -> None:
    """A gateway's: the door does not know what its devices are."""
    rig, identities = HostRig(tmp_path, nats_url), DictIdentities()
    device_12 = DevicesRegistered("sz.h001", [12], ["pump-1"], ["infusion-pump@1"], ["icu"], ["b1"])
    await bus.publish(subjects.control(SHARD), encode(device_12), "registered")
    door = http_door(identities, StreamIntake(bus, identities, CLOCK, source=2), CLOCK, StreamReceipts(bus))
    headers = ("-H", "Authorization: Bearer token-of-gateway", "-H", "Content-Type: application/json")
    async with served(door) as url, rig.host(shard_3=1) as host:
        for event in ("occlusion", "lead_off"):
            await run("curl", "-sS", f"{url}{EVENTS.path}", *headers, "-d", json.dumps({"event": event, "handle": 12}))
        await caught_up(host, SHARD, 3)
    assert [(event.rule, event.subject.device_id) for event in await alarms(bus)] == [("device.occlusion", "pump-1")]
    ((reason, detail),) = await rejects(bus)
    assert reason == "unknown-event"
    assert "infusion-pump@1" in detail
