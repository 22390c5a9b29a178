"""Our own client before the door: TLS, frames, repetition after a lost connection, the whole way to the real stream."""

from __future__ import annotations

import asyncio
import ssl
import sys

import numpy as np
import pytest
import uvloop

from domain.errors import Unauthenticated, Unavailable
from domain.frames import decode_frame, encode_frame
from domain.metrics import metric_of
from domain.quality import Validity
from domain.readings import ReadingBatch
from gateways.device_client import DeviceClient, main
from gateways.mqtt_door import MqttDoor
from runtime.clock import SystemClock
from runtime.intake import StreamIntake
from tests.doors import (
    GATEWAY,
    MONITOR,
    NOW_US,
    DictIdentities,
    assert_same_rows,
    make_certificate,
    run,
)
from tests.mqtt_peer import TELEMETRY, opened
from tests.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture
async def stage():
    async with opened() as stage:
        yield stage


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


@pytest.mark.clause("5.4e")
@pytest.mark.parametrize("is_tls", [False, True])
async def test_door_and_client_on_uvloop(tmp_path, is_tls):
    """The loop that the platform runs on; its transports are none of asyncio's classes."""
    server, certificate = make_certificate(tmp_path) if is_tls else (None, None)

    async def exchange():
        async with opened(max_in_flight=4, tls=server) as stage:
            trusting = ssl.create_default_context(cafile=str(certificate)) if is_tls else None
            client = DeviceClient("127.0.0.1", stage.port, "token-of-monitor", tls=trusting)
            await client.connect()
            await asyncio.gather(*(client.publish_readings({"metric": "hr", "value": n}) for n in range(100)))
            stage.door._by_handle[MONITOR.handle].end("test")
            await until(lambda: client.reconnects)
            await client.publish_readings({"metric": "hr", "value": 100})
            await client.close()
            return stage.bus.readings().value.tolist()

    assert await asyncio.to_thread(uvloop.run, exchange()) == list(range(101))


@pytest.mark.clause("9.1a")
def test_its_command_shows_a_token_to_another_machine_by_tls_alone(capsys):
    with pytest.raises(SystemExit):
        main(["--host", "door.example", "--token", "s3cret", "--reading", "heart_rate=72"])
    assert "door.example is another machine: expected --ca" in capsys.readouterr().err
