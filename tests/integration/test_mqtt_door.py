"""The MQTT door before real clients: paho-mqtt, mosquitto_pub, our own, and raw bytes."""

from __future__ import annotations

import asyncio
import json

import paho.mqtt.client as paho
import pytest

from domain import subjects
from domain.errors import Unavailable
from domain.frames import encode_frame
from domain.messages import SecurityKind
from domain.quality import Mark, Validity, has_mark, validity_of
from domain.readings import ReadingBatch
from gateways.device_client import DeviceClient
from gateways.mqtt import encode, encode_publish
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
from tests.doors import (
    CUFF,
    MONITOR,
    NOW_US,
    run,
)
from tests.mqtt_peer import ERRORS, FRAMES, HR_72, READINGS, RECEIPTS, TELEMETRY, Raw, opened
from tests.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture
async def stage():
    async with opened() as stage:
        yield stage


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
        connection.look_after(asyncio.get_running_loop().time() + 60)  # what is not read is not silent
        assert stage.door.counters.messages == 8
        stage.bus.release()
        assert [(await raw.next()).packet_id for _ in range(100)] == list(range(1, 101))
        assert stage.door.counters.messages == 100


@pytest.mark.clause("7.3")
@pytest.mark.parametrize("allowed", [1, 0])
async def test_a_sender_for_whom_there_is_no_room_is_read_no_further_until_there_is(monkeypatch, allowed):
    async with opened() as stage:
        raw = await Raw.connect(stage.port, "token-of-monitor")
        await until(stage.bus.events)
        stage.bus.hold()
        monkeypatch.setattr(stage.door.intake, "allowance", lambda sender: allowed)
        raw.send(*(encode_publish(READINGS, HR_72, 1, n) for n in range(1, 6)))
        connection = stage.door._by_handle[MONITOR.handle]
        await until(lambda: connection._is_read_paused)
        connection.look_after(asyncio.get_running_loop().time())
        assert stage.door.counters.messages == allowed
        monkeypatch.undo()
        stage.bus.release()
        assert [(await raw.next()).packet_id for _ in range(5)] == [1, 2, 3, 4, 5]


async def test_what_waits_for_room_when_its_connection_is_lost_is_not_stored():
    async with opened() as stage:
        room = stage.door.intake._admission
        room.has_room = lambda lane, shard: False
        raw = await Raw.connect(stage.port, "token-of-monitor")
        raw.send(encode_publish(READINGS, HR_72, 1, 1))
        await until(lambda: stage.door.intake.counters.waiting_readings)
        raw.drop()
        await until(lambda: MONITOR.handle not in stage.door._by_handle)
        del room.has_room
        await until(lambda: not stage.door.intake.counters.waiting_readings)
        assert stage.bus.frames() == []


@pytest.mark.clause("5.4c")
async def test_who_asks_for_receipts_has_each_before_its_puback(stage):
    raw = await Raw.connect(stage.port, "token-of-monitor")
    raw.send(
        encode(Subscribe(1, ((RECEIPTS, 0),))), encode_publish(READINGS, HR_72, 1, 7), encode_publish("nowhere", b"", 1, 8)
    )
    assert await raw.next() == SubAck(1, (0,))
    told = await raw.next()
    assert told.topic == RECEIPTS
    receipt = json.loads(told.payload)
    assert (receipt["packet"], receipt["readings"]) == (7, 1)
    assert await raw.next() == Ack(PacketKind.PUBACK, 7)
    assert await raw.next() == Ack(PacketKind.PUBACK, 8)  # a message that was refused is kept nowhere
    shard, sequence = map(int, receipt["receipt"].split("-"))
    (message,) = [message for message in stage.bus.messages if message.subject == subjects.reading(shard)]
    assert sequence == message.sequence
    raw.send(encode(Unsubscribe(2, (RECEIPTS,))), encode_publish(READINGS, HR_72, 1, 9))
    assert await raw.next() == Ack(PacketKind.UNSUBACK, 2)
    assert await raw.next() == Ack(PacketKind.PUBACK, 9)


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


async def test_only_topics_of_its_own_errors_and_receipts_are_granted(stage):
    raw = await Raw.connect(stage.port, "token-of-monitor")
    wanted = ("#", "v1/devices/me/attributes", "v1/devices/me/rpc/request/+", ERRORS, "v1/devices/+/errors", RECEIPTS)
    raw.send(encode(Subscribe(5, tuple((topic, 1) for topic in wanted))))
    assert await raw.next() == SubAck(5, (0x80, 0x80, 0x80, 0, 0x80, 0))
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
    assert asyncio.get_running_loop().time() - asked > 1.4
    assert stage.door.counters.connections_ended["keep-alive"] == 1
    await until(lambda: (7, "offline", "connection keep-alive") in stage.bus.events())


async def test_a_connection_that_never_says_who_it_is_expires():
    async with opened(connect_timeout_s=0.2) as stage:
        raw = await Raw.connect(stage.port)
        assert await raw.next() is None


async def test_the_same_sender_takes_its_session_over(stage):
    older = await Raw.connect(stage.port, "token-of-monitor", client_id="one")
    newer = await Raw.connect(stage.port, "token-of-monitor", client_id="two")
    assert await older.next() is None
    newer.send(encode_publish(READINGS, HR_72, 1, 1))
    assert await newer.next() == Ack(PacketKind.PUBACK, 1)
    assert stage.door.counters.connections == 1
    assert stage.bus.events() == [(7, "online", None)]


@pytest.mark.clause("5.4a", "9.4")
async def test_a_client_id_of_another_takes_nothing_over_from_it_and_is_noticed(stage):
    """Else whoever has a token could silence any device whose client id it guesses."""
    monitor = await Raw.connect(stage.port, "token-of-monitor", client_id="same")
    cuff = await Raw.connect(stage.port, "token-of-cuff", client_id="same")
    for peer in (monitor, cuff):
        peer.send(encode(Simple(PacketKind.PINGREQ)))
        assert await peer.next() == Simple(PacketKind.PINGRESP)
    await until(stage.bus.notices)
    (notice,) = stage.bus.notices()
    assert (notice.handle, notice.kind, notice.is_alarm) == (CUFF.handle, SecurityKind.CLIENT_ID, False)
    assert sorted(stage.bus.events()) == [(MONITOR.handle, "online", None), (CUFF.handle, "online", None)]


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
