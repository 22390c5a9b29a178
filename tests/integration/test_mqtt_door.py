"""The MQTT door before real clients: paho-mqtt, mosquitto_pub, our own, and raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
from contextlib import asynccontextmanager
from typing import ClassVar

import numpy as np
import paho.mqtt.client as paho
import pytest

from domain.errors import Unauthenticated, Unavailable
from domain.frames import decode_frame, encode_frame
from domain.metrics import metric_of
from domain.quality import Mark, Validity, has_mark, validity_of
from domain.readings import ReadingBatch
from gateways.device_client import DeviceClient
from gateways.mqtt import encode, encode_publish
from gateways.mqtt_door import MqttDoor, MqttLimits
from gateways.mqtt_packets import (
    Ack,
    ConnAck,
    Connect,
    PacketKind,
    Publish,
    Simple,
    SubAck,
    Subscribe,
    Unsubscribe,
    Will,
)
from gateways.mqtt_reader import PacketReader
from runtime.clock import SystemClock
from runtime.intake import IntakeLimits, StreamIntake
from tests.doors import (
    CUFF,
    GATEWAY,
    MONITOR,
    NOW_US,
    DictIdentities,
    MemoryBus,
    assert_same_rows,
    clock,
    make_certificate,
    run,
)
from tests.waiting import until

pytestmark = pytest.mark.integration

READINGS, TELEMETRY, FRAMES, ERRORS = (f"v1/devices/me/{name}" for name in ("readings", "telemetry", "frames", "errors"))
HR_72 = b'{"metric": "heart_rate", "value": 72}'


class Stage:
    """A door on a bus in memory."""

    def __init__(self, bus, identities, door, port, intake):
        self.bus, self.identities, self.door, self.port, self.intake = bus, identities, door, port, intake


@asynccontextmanager
async def opened(*, tls=None, ack_timeout_s=10.0, **limits):
    bus, identities = MemoryBus(), DictIdentities()
    intake = StreamIntake(bus, identities, clock(), source=1, limits=IntakeLimits(ack_timeout_s=ack_timeout_s))
    door = MqttDoor(identities, intake, clock(), limits=MqttLimits(**limits), tls=tls)
    port = await door.start("127.0.0.1", 0)
    try:
        yield Stage(bus, identities, door, port, intake)
    finally:
        while Raw.open:
            Raw.open.pop().drop()
        bus.failures = 0
        bus.release()
        await door.close(deadline_s=1)
        await intake.close()


@pytest.fixture
async def stage():
    async with opened() as stage:
        yield stage


class Raw:
    """A peer that sends bytes and reads packets."""

    open: ClassVar[list[Raw]] = []

    def __init__(self, reader, writer):
        self.open.append(self)
        self._reader, self._writer = reader, writer
        self._packets = PacketReader(10**6)

    @classmethod
    async def connect(cls, port, token=None, **fields):
        raw = cls(*await asyncio.open_connection("127.0.0.1", port))
        if token is not None:
            raw.send(encode(Connect(fields.pop("client_id", "raw"), username=token, **fields)))
            assert await raw.next() == ConnAck(0)
        return raw

    def send(self, *data):
        self._writer.write(b"".join(data))

    async def next(self):
        """The next packet; None when the connection was closed."""
        async with asyncio.timeout(10):
            while (packet := self._packets.next_packet()) is None:
                data = b""
                with contextlib.suppress(ConnectionResetError):
                    data = await self._reader.read(65536)
                if not data:
                    self.drop()
                    return None
                self._packets.feed(data)
            return packet

    def drop(self):
        self._writer.transport.abort()

    async def listen_to_errors(self):
        self.send(encode(Subscribe(1, ((ERRORS, 1),))))
        assert await self.next() == SubAck(1, (0,))

    async def next_error(self):
        packet = await self.next()
        assert packet.topic == ERRORS
        return json.loads(packet.payload)


# ---- who may come in


@pytest.mark.clause("5.4a")
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, 4),
        ({"username": ""}, 4),
        ({"username": "nobody"}, 5),
        ({"username": "nobody", "password": b"wrong"}, 5),
        ({"username": "token-of-monitor", "client_id": "", "clean_session": False}, 2),
    ],
)
async def test_connect_without_a_good_token_is_refused(stage, fields, code):
    raw = await Raw.connect(stage.port)
    raw.send(encode(Connect(**{"client_id": "c", **fields})), encode_publish(READINGS, HR_72, 1, 1))
    assert await raw.next() == ConnAck(code)
    assert await raw.next() is None
    assert stage.bus.messages == []
    assert sum(stage.door.counters.connections_refused.values()) == 1


@pytest.mark.parametrize("fields", [{"username": "token-of-monitor"}, {"username": "x", "password": b"token-of-monitor"},
                                    {"username": "token-of-monitor", "password": b""}])  # fmt: skip
async def test_token_is_the_user_name_or_the_password(stage, fields):
    raw = await Raw.connect(stage.port)
    raw.send(encode(Connect("c", **fields)))
    assert await raw.next() == ConnAck(0)


async def test_other_protocol_levels_are_told_so(stage):
    raw = await Raw.connect(stage.port)
    raw.send(bytes.fromhex("100d 0004 4d515454 05 02 0000 00 0000"))
    assert await raw.next() == ConnAck(1)
    assert await raw.next() is None


async def test_a_directory_that_does_not_answer_is_no_wrong_token(stage):
    stage.identities.is_down = True
    with pytest.raises(Unavailable, match="CONNACK 3"):
        await DeviceClient("127.0.0.1", stage.port, "token-of-monitor").connect()


async def test_a_full_door_says_so():
    async with opened(max_connections=1) as stage:
        await Raw.connect(stage.port, "token-of-monitor")
        with pytest.raises(Unavailable, match="CONNACK 3"):
            await DeviceClient("127.0.0.1", stage.port, "token-of-cuff").connect()
        assert stage.door.counters.connections == 1


@pytest.mark.clause("5.4a")
async def test_paho_with_a_wrong_token_is_refused(stage):
    codes = []
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_connect = lambda _c, _u, _f, code, _p: codes.append(code.getName())
    client.username_pw_set("wrong")
    await asyncio.to_thread(client.connect, "127.0.0.1", stage.port)
    client.loop_start()
    await until(lambda: codes)
    client.loop_stop()
    assert codes[0] == "Not authorized"


# ---- readings


@pytest.mark.clause("5.4e")
async def test_paho_publishes_and_is_acknowledged(stage):
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="paho")
    client.username_pw_set("token-of-monitor")
    await asyncio.to_thread(client.connect, "127.0.0.1", stage.port)
    client.loop_start()
    infos = [client.publish(READINGS, HR_72, qos=1), client.publish(TELEMETRY, '{"spo2": 97}', qos=1),
             client.publish(READINGS, '{"metric": "resp_rate", "value": 14}', qos=0)]  # fmt: skip
    await until(lambda: all(info.is_published() for info in infos))
    await until(lambda: len(stage.bus.readings()) == 3)
    client.disconnect()
    client.loop_stop()
    batch = stage.bus.readings()
    assert sorted(zip(batch.metric.tolist(), batch.value.tolist(), strict=True)) == [(1, 72.0), (3, 14.0), (4, 97.0)]
    assert set(batch.handle.tolist()) == {MONITOR.handle}


@pytest.mark.clause("5.4e")
async def test_mosquitto_pub_publishes(stage):
    code, output = await run(
        "mosquitto_pub", "-h", "127.0.0.1", "-p", str(stage.port), "-u", "token-of-monitor", "-q", "1",
        "-t", TELEMETRY, "-m", '{"hr": 71}',
    )  # fmt: skip
    assert (code, output) == (0, "")
    assert stage.bus.readings().value.tolist() == [71.0]


@pytest.mark.clause("5.4a")
async def test_mosquitto_pub_with_a_wrong_token_is_refused(stage):
    code, output = await run(
        "mosquitto_pub", "-h", "127.0.0.1", "-p", str(stage.port), "-u", "wrong", "-q", "1", "-t", TELEMETRY, "-m", "{}"
    )
    assert code != 0
    assert "not authorised" in output.lower()
    assert stage.bus.messages == []


@pytest.mark.clause("5.4c")
async def test_puback_comes_only_after_the_stream_has_it(stage):
    raw = await Raw.connect(stage.port, "token-of-monitor")
    stage.bus.hold()
    raw.send(encode_publish(READINGS, HR_72, 1, 7), encode(Simple(PacketKind.PINGREQ)))
    assert await raw.next() == Simple(PacketKind.PINGRESP)  # the ping overtook: no PUBACK was owed before it
    assert stage.bus.frames() == []
    stage.bus.release()
    assert await raw.next() == Ack(PacketKind.PUBACK, 7)
    assert len(stage.bus.readings()) == 1


async def test_pubacks_come_in_the_order_of_the_publishes(stage):
    """Also when a refusal is kept sooner than the readings before it are stored."""
    raw = await Raw.connect(stage.port, "token-of-monitor")
    stage.bus.hold()
    raw.send(*(encode_publish(READINGS, HR_72 if n % 3 else b"{", 1, n) for n in range(1, 31)))
    await until(lambda: stage.bus.tries > 5)
    stage.bus.release()
    assert [(await raw.next()).packet_id for _ in range(30)] == list(range(1, 31))
    assert len(stage.bus.rejects()) == 10


@pytest.mark.clause("7.3")
async def test_a_sender_with_too_much_in_flight_is_read_no_further():
    async with opened(max_in_flight=8) as stage:
        raw = await Raw.connect(stage.port, "token-of-monitor", keep_alive_s=1)
        stage.bus.hold()
        raw.send(*(encode_publish(READINGS, HR_72, 1, n) for n in range(1, 101)))
        await until(lambda: stage.door.counters.messages == 8)
        connection = stage.door._by_handle[MONITOR.handle]
        connection.check_silence(asyncio.get_running_loop().time() + 60)  # what is not read is not silent
        assert stage.door.counters.messages == 8
        stage.bus.release()
        assert [(await raw.next()).packet_id for _ in range(100)] == list(range(1, 101))
        assert stage.door.counters.messages == 100


@pytest.mark.clause("5.4c")
async def test_without_the_streams_acknowledgement_there_is_no_puback_and_the_connection_ends():
    async with opened(ack_timeout_s=0.1) as stage:
        raw = await Raw.connect(stage.port, "token-of-monitor")
        await raw.listen_to_errors()
        await until(stage.bus.events)
        stage.bus.failures = 10**6
        raw.send(encode_publish(READINGS, HR_72, 1, 7))
        assert (await raw.next_error())["reason"] == "unavailable"
        assert await raw.next() is None
        assert stage.door.counters.connections_ended["unavailable"] == 1
        stage.bus.failures = 0


async def test_a_qos_0_message_that_is_lost_is_told_and_counted():
    async with opened(ack_timeout_s=0.1) as stage:
        raw = await Raw.connect(stage.port, "token-of-monitor")
        await raw.listen_to_errors()
        await until(stage.bus.events)
        stage.bus.failures = 10**6
        raw.send(encode_publish(READINGS, HR_72))
        assert (await raw.next_error())["reason"] == "unavailable"
        stage.bus.failures = 0
        raw.send(encode_publish(READINGS, HR_72, 1, 8))
        assert await raw.next() == Ack(PacketKind.PUBACK, 8)
        assert stage.door.counters.unavailable == 1


# ---- what is refused


@pytest.mark.clause("8.1")
@pytest.mark.parametrize(
    ("reason", "topic", "payload"),
    [
        ("wrong-topic", "v1/devices/me/attributes", b'{"a": 1}'),
        ("wrong-topic", "v1/devices/sz.h001-mon-9/readings", HR_72),
        ("malformed-json", READINGS, b'{"metric": '),
        ("malformed-json", TELEMETRY, b"hello"),
        ("malformed-value", READINGS, b'{"metric": "hr", "value": "much"}'),
        ("unknown-metric", TELEMETRY, b'{"mood": 3}'),
        ("wrong-unit", READINGS, b'{"metric": "hr", "value": 72, "unit": "kPa"}'),
        ("implausible-time", READINGS, b'{"metric": "hr", "value": 72, "time": 12}'),
        ("oversize", READINGS, b"[" + b" " * 5000 + b"]"),
        ("malformed-frame", FRAMES, HR_72),
        ("unknown-device", FRAMES, encode_frame(ReadingBatch.of(handle=8, metric=1, time_us=NOW_US, value=72), source=7,
                                                sequence=1, arrival_us=0)),
    ],
)  # fmt: skip
async def test_a_refused_message_is_told_kept_and_acknowledged(reason, topic, payload):
    async with opened(max_payload_bytes=4096) as stage:
        raw = await Raw.connect(stage.port, "token-of-monitor")
        await raw.listen_to_errors()
        raw.send(encode_publish(topic, payload, 1, 9))
        error = await raw.next_error()
        assert (error["reason"], error["topic"]) == (reason, topic)
        assert len(error["detail"]) > 20
        assert await raw.next() == Ack(PacketKind.PUBACK, 9)
        (kept,) = stage.bus.rejects()
        assert (kept.reason, kept.topic, kept.door, kept.principal) == (reason, topic, "mqtt", MONITOR.name)
        assert (kept.payload, kept.detail) == (payload[:4096], error["detail"])
        assert len(stage.bus.readings()) == 0
        assert stage.door.counters.rejects == {reason: 1}


@pytest.mark.clause("8.1")
async def test_mosquitto_pubs_oversize_message_is_read_to_its_end_and_kept_in_part():
    async with opened(max_payload_bytes=100_000) as stage:
        code, _ = await run(
            "mosquitto_pub", "-h", "127.0.0.1", "-p", str(stage.port), "-u", "token-of-monitor", "-q", "1",
            "-t", READINGS, "-s", stdin=b"x" * 3_000_000,
        )  # fmt: skip
        assert code == 0
        (kept,) = stage.bus.rejects()
        assert kept.reason == "oversize"
        assert "3000000" in kept.detail
        assert 0 < len(kept.payload) <= 100_000


@pytest.mark.clause("8.1")
async def test_an_implausible_value_is_stored_and_marked(stage):
    raw = await Raw.connect(stage.port, "token-of-monitor")
    raw.send(encode_publish(READINGS, b'{"metric": "hr", "value": 900}', 1, 1))
    assert await raw.next() == Ack(PacketKind.PUBACK, 1)
    batch = stage.bus.readings()
    assert batch.value.tolist() == [900.0]
    assert has_mark(batch.quality, Mark.IMPLAUSIBLE).all()
    assert validity_of(batch.quality).tolist() == [Validity.QUESTIONABLE]
    assert stage.bus.rejects() == []


@pytest.mark.parametrize("wire", [b"\xff\xff\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n", encode(Simple(PacketKind.PINGREQ)),
                                  b"\x00" * 100])  # fmt: skip
async def test_what_is_not_mqtt_is_closed_and_harms_nobody(stage, wire):
    good = await Raw.connect(stage.port, "token-of-monitor")
    bad = await Raw.connect(stage.port)
    bad.send(wire)
    assert await bad.next() is None
    good.send(encode_publish(READINGS, HR_72, 1, 1))
    assert await good.next() == Ack(PacketKind.PUBACK, 1)


@pytest.mark.parametrize("wire", [encode(Connect("again", username="token-of-monitor")), encode_publish(READINGS, HR_72, 2, 5),
                                  encode(ConnAck(0)), encode(Ack(PacketKind.PUBACK, 3))])  # fmt: skip
async def test_what_a_client_may_not_send_ends_the_connection(stage, wire):
    raw = await Raw.connect(stage.port, "token-of-monitor")
    raw.send(wire)
    assert await raw.next() is None
    await until(lambda: len(stage.bus.events()) == 2)
    assert stage.bus.events()[1][1] == "offline"


async def test_only_the_errors_topic_is_granted(stage):
    raw = await Raw.connect(stage.port, "token-of-monitor")
    wanted = ("#", "v1/devices/me/attributes", "v1/devices/me/rpc/request/+", ERRORS, "v1/devices/+/errors")
    raw.send(encode(Subscribe(5, tuple((topic, 1) for topic in wanted))))
    assert await raw.next() == SubAck(5, (0x80, 0x80, 0x80, 0, 0x80))
    raw.send(encode(Unsubscribe(6, (ERRORS,))), encode_publish("nowhere", b"", 1, 7))
    assert await raw.next() == Ack(PacketKind.UNSUBACK, 6)
    assert await raw.next() == Ack(PacketKind.PUBACK, 7)  # and no word of the error


# ---- coming and going


async def test_a_will_becomes_the_offline_event_of_a_lost_connection(stage):
    raw = await Raw.connect(stage.port, "token-of-monitor", will=Will("v1/devices/me/status", b"battery empty"))
    await until(stage.bus.events)
    raw.drop()
    await until(lambda: len(stage.bus.events()) == 2)
    assert stage.bus.events() == [(7, "online", None), (7, "offline", "battery empty")]
    assert stage.door.counters.connections == 0


async def test_a_goodbye_drops_the_will(stage):
    raw = await Raw.connect(stage.port, "token-of-monitor", will=Will("t", b"died"))
    raw.send(encode(Simple(PacketKind.DISCONNECT)))
    assert await raw.next() is None
    await until(lambda: len(stage.bus.events()) == 2)
    assert stage.bus.events()[1] == (7, "disconnected", None)


async def test_a_silent_connection_expires_after_one_and_a_half_keep_alives(stage):
    raw = await Raw.connect(stage.port, "token-of-monitor", keep_alive_s=1)
    asked = asyncio.get_running_loop().time()
    assert await raw.next() is None
    assert 1.4 < asyncio.get_running_loop().time() - asked < 4
    assert stage.door.counters.connections_ended["keep-alive"] == 1
    await until(lambda: (7, "offline", "connection keep-alive") in stage.bus.events())


async def test_a_connection_that_never_says_who_it_is_expires():
    async with opened(connect_timeout_s=0.2) as stage:
        raw = await Raw.connect(stage.port)
        assert await raw.next() is None


async def test_the_same_principal_takes_its_session_over(stage):
    older = await Raw.connect(stage.port, "token-of-monitor", client_id="one")
    newer = await Raw.connect(stage.port, "token-of-monitor", client_id="two")
    assert await older.next() is None
    newer.send(encode_publish(READINGS, HR_72, 1, 1))
    assert await newer.next() == Ack(PacketKind.PUBACK, 1)
    assert stage.door.counters.connections == 1
    assert stage.bus.events() == [(7, "online", None)]


async def test_the_same_client_id_takes_the_session_over(stage):
    older = await Raw.connect(stage.port, "token-of-monitor", client_id="same")
    await Raw.connect(stage.port, "token-of-cuff", client_id="same")
    assert await older.next() is None
    await until(lambda: len(stage.bus.events()) == 3)
    assert sorted(stage.bus.events()) == [
        (MONITOR.handle, "offline", "another device uses its client id"), (MONITOR.handle, "online", None),
        (CUFF.handle, "online", None),
    ]  # fmt: skip


async def test_a_closing_door_answers_what_it_took():
    async with opened() as stage:
        raw = await Raw.connect(stage.port, "token-of-monitor")
        stage.bus.hold()
        raw.send(encode_publish(READINGS, HR_72, 1, 1))
        await until(lambda: stage.door.counters.messages)
        closing = asyncio.ensure_future(stage.door.close(deadline_s=5))
        await asyncio.sleep(0)
        stage.bus.release()
        await closing
        assert await raw.next() == Ack(PacketKind.PUBACK, 1)
        assert await raw.next() is None


# ---- TLS, frames, our own client


@pytest.mark.clause("5.4c")
async def test_tls(tmp_path):
    server, certificate = make_certificate(tmp_path)
    async with opened(tls=server) as stage:
        trusting = ssl.create_default_context(cafile=str(certificate))
        client = DeviceClient("127.0.0.1", stage.port, "token-of-monitor", tls=trusting)
        await client.connect()
        await client.publish_readings({"metric": "hr", "value": 72})
        await client.close()
        code, _ = await run(
            "mosquitto_pub", "-h", "127.0.0.1", "-p", str(stage.port), "--cafile", str(certificate), "-u", "token-of-cuff",
            "-q", "1", "-t", TELEMETRY, "-m", '{"sbp": 120}',
        )  # fmt: skip
        assert code == 0
        assert stage.bus.readings().value.tolist() == [72.0, 120.0]
        with pytest.raises(Unavailable):
            await DeviceClient("127.0.0.1", stage.port, "token-of-monitor", tls=ssl.create_default_context()).connect()


@pytest.mark.clause("5.4b")
async def test_a_gateway_sends_frames_for_its_devices(stage):
    batch = ReadingBatch.of(handle=[7, 8, 1001], metric=[metric_of(code).id for code in ("spo2", "nibp_sys", "etco2")],
                            time_us=NOW_US, value=[97.0, np.nan, 38.0], source=100, sequence=[1, 2, 3],
                            quality=[0, Validity.NOT_AVAILABLE, 0])  # fmt: skip
    client = DeviceClient("127.0.0.1", stage.port, "token-of-gateway")
    await client.connect()
    await client.publish_frame(encode_frame(batch, source=100, sequence=1, arrival_us=0))
    await client.close()
    assert_same_rows(stage.bus.readings(), batch)
    assert [frame.header.sequence for frame in stage.bus.frames(5)] == [1]


async def test_client_with_a_wrong_token_is_told(stage):
    with pytest.raises(Unauthenticated, match="CONNACK 5"):
        await DeviceClient("127.0.0.1", stage.port, "wrong").connect()


@pytest.mark.clause("5.4c")
async def test_client_repeats_what_was_not_acknowledged_after_a_lost_connection(stage):
    client = DeviceClient("127.0.0.1", stage.port, "token-of-gateway")
    await client.connect()
    stage.bus.hold()
    frames = [encode_frame(ReadingBatch.of(handle=7, metric=1, time_us=NOW_US, value=float(n), source=100, sequence=n + 1),
                           source=100, sequence=n + 1, arrival_us=0) for n in range(20)]  # fmt: skip
    answers = [client.start_frame(frame) for frame in frames]
    await until(lambda: stage.door.counters.messages == 20)
    stage.door._by_handle[GATEWAY.handle].end("test")
    await until(lambda: stage.door.counters.messages == 40)
    stage.bus.release()
    await asyncio.gather(*answers)
    assert set(stage.bus.readings().sequence.tolist()) == set(range(1, 21))
    assert (client.reconnects, client.unacknowledged) == (1, 0)
    await client.close()


async def test_client_keeps_messages_while_it_is_away(stage):
    client = DeviceClient("127.0.0.1", stage.port, "token-of-monitor", max_in_flight=2)
    await client.connect()
    await client.disconnect()
    await until(lambda: len(stage.bus.events()) == 2)
    answers = [asyncio.ensure_future(client.publish_readings({"metric": "hr", "value": n})) for n in range(5)]
    await asyncio.sleep(0)
    assert (client.is_connected, client.unacknowledged) == (False, 5)
    await client.connect()
    await asyncio.gather(*answers)
    assert stage.bus.readings().value.tolist() == [0, 1, 2, 3, 4]
    await client.close()


async def test_client_hears_refusals(stage):
    heard = []
    client = DeviceClient("127.0.0.1", stage.port, "token-of-monitor", on_error=heard.append)
    await client.connect()
    await client.publish_readings({"metric": "mood", "value": 1})
    assert [error["reason"] for error in heard] == ["unknown-metric"]
    await client.close()


async def test_closing_a_client_fails_what_was_not_acknowledged(stage):
    client = DeviceClient("127.0.0.1", stage.port, "token-of-monitor")
    await client.connect()
    stage.bus.hold()
    answer = asyncio.ensure_future(client.publish_readings({"metric": "hr", "value": 1}))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(Unavailable, match="closed"):
        await answer
    stage.bus.release()


async def test_client_as_a_program(stage):
    program = (sys.executable, "-m", "gateways.device_client", "--port", str(stage.port), "--token", "token-of-monitor")
    assert await run(*program, "--reading", "hr=72", "--reading", "body_temp=98.6[degF]") == (0, "2 readings are stored\n")
    assert stage.bus.readings().value.tolist() == pytest.approx([72.0, 37.0])
    code, output = await run(*program, "--reading", "mood=1")
    assert code == 1
    assert output.startswith("refused (unknown-metric): ")


# ---- the whole way, with a real stream


@pytest.mark.clause("5.4e")
async def test_readings_reach_the_real_stream(bus, nats_url):
    identities = DictIdentities()
    intake = StreamIntake(bus, identities, SystemClock(), source=1)
    door = MqttDoor(identities, intake, SystemClock())
    port = await door.start("127.0.0.1", 0)
    clients = [DeviceClient("127.0.0.1", port, token, max_in_flight=512) for token in identities.tokens]
    await asyncio.gather(*(client.connect() for client in clients[:2]))
    await asyncio.gather(
        *(clients[0].publish_readings({"metric": "hr", "value": n, "seq": n + 1}) for n in range(500)),
        *(clients[1].publish_readings({"metric": "sbp", "value": n, "seq": n + 1}) for n in range(500)),
    )
    state = await bus.stream_state("READINGS")
    assert state.last_sequence < 500  # groups, not one message a reading
    seen = []
    follower = await bus.follow("READINGS", ["reading.3"], 1, seen.append)
    await until(lambda: sum(frame.header.rows for frame in map(_frame, seen)) == 1000)
    rows = ReadingBatch.concat(_frame(message).readings for message in seen)
    for handle in (7, 8):
        assert sorted(rows.sequence[rows.handle == handle].tolist()) == list(range(1, 501))
    await follower.stop()
    await asyncio.gather(*(client.close() for client in clients[:2]))
    await door.close()
    await intake.close()


def _frame(message):
    return decode_frame(message.payload)


async def test_no_patient_data_reaches_the_log(stage, caplog):
    caplog.set_level("DEBUG")
    raw = await Raw.connect(stage.port, "token-of-monitor", will=Will("t", "张伟 131".encode()))
    raw.send(encode_publish(READINGS, '{"metric": "张伟", "value": 1}'.encode(), 1, 1), encode_publish("张伟", b"x", 1, 2))
    assert {(await raw.next()).packet_id, (await raw.next()).packet_id} == {1, 2}
    raw.send(encode(Publish("a", b"", 2, 5)))
    assert await raw.next() is None
    said = " ".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records if record.name.startswith("gateways"))
    assert "unknown-metric" in said
    assert "张伟" not in said
    assert "token-of" not in said
