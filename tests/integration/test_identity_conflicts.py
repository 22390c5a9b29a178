"""One identity at two addresses: a clone is noticed, a device that comes back by another way is not. Real clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager

import httpx
import paho.mqtt.client as paho
import pytest

from domain.messages import SecurityKind
from gateways import watch
from gateways.http_door import http_door
from gateways.mqtt import encode, encode_publish
from gateways.mqtt_door import MqttDoor
from gateways.mqtt_packets import Ack, ConnAck, Connect, PacketKind, Simple
from runtime.receipts import StreamReceipts
from tests.doors import MONITOR, clock, run, served
from tests.mqtt_peer import HR_72, READINGS, TELEMETRY, Raw, opened
from tests.waiting import until

pytestmark = pytest.mark.integration
HOME, AWAY = "127.0.0.1", "127.0.0.2"


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch, "HOLD_S", 0.3)
    async with opened() as opened_stage:
        yield opened_stage


async def connect(stage, address: str, token: str = "token-of-monitor", **fields) -> Raw:
    """A peer that speaks from an address, and is let in."""
    raw = await reach(stage, address, token, **fields)
    assert await raw.next() == ConnAck(0)
    return raw


async def reach(stage, address: str, token: str = "token-of-monitor", **fields) -> Raw:
    raw = Raw(*await asyncio.open_connection(HOME, stage.port, local_addr=(address, 0)))
    raw.send(encode(Connect("raw", username=token, **fields)))
    return raw


def conflicts(stage) -> list:
    return [notice for notice in stage.bus.notices() if notice.kind is SecurityKind.IDENTITY_CONFLICT]


@pytest.mark.clause("5.4a", "9.4")
async def test_a_clone_that_takes_over_by_turns_is_noticed_by_both_addresses(stage) -> None:
    for address in (HOME, AWAY, HOME, AWAY):
        await connect(stage, address)
    await until(lambda: conflicts(stage))
    (notice,) = conflicts(stage)
    assert (notice.handle, notice.is_alarm, notice.address) == (MONITOR.handle, True, AWAY)
    assert HOME in notice.detail
    assert AWAY in notice.detail


@pytest.mark.clause("5.4a")
async def test_a_device_that_comes_back_by_another_way_is_no_conflict(stage) -> None:
    """Its former connection is half open; and once it goes back, some time."""
    older = await connect(stage, HOME)
    await connect(stage, AWAY)
    assert await older.next() is None
    for _ in range(5):
        newest = await connect(stage, AWAY)  # by the same way, again and again
    await connect(stage, HOME)
    newest = await connect(stage, HOME)
    newest.send(encode_publish(READINGS, HR_72, 1, 1))
    assert await newest.next() == Ack(PacketKind.PUBACK, 1)
    assert stage.bus.notices() == []


@pytest.mark.clause("9.4")
async def test_in_a_conflict_who_was_there_first_comes_back_at_once_and_the_other_waits_alone(stage) -> None:
    for address in (HOME, AWAY, HOME, AWAY):
        await connect(stage, address)
    monitor = await connect(stage, HOME)
    one, two = await reach(stage, AWAY), await reach(stage, AWAY)
    assert await two.next() == ConnAck(3)
    monitor.send(encode_publish(READINGS, HR_72, 1, 1))
    assert await monitor.next() == Ack(PacketKind.PUBACK, 1)
    assert await one.next() == ConnAck(0)  # after its wait: MQTT's take-over holds
    assert await monitor.next() is None
    assert stage.door.counters.connections_refused["identity-conflict"] == 1


@pytest.fixture
def used(stage, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The monitor was believed at an address, at a time; where the connection was that it took over, and when heard there."""
    now = [0.0]
    monkeypatch.setattr(stage.door.watch, "_now_s", lambda: now[0])

    def at(now_s: float, address: str, before: tuple[str, float] | None = None) -> None:
        now[0] = now_s
        stage.door.watch.used(MONITOR, "mqtt", address, before)

    return at


@pytest.mark.clause("9.4")
async def test_a_monitor_that_was_there_for_an_hour_is_at_home_there_when_a_clone_comes(stage, used) -> None:
    used(0.0, HOME)
    used(3600.0, AWAY, (HOME, 3599.0))
    used(3601.0, HOME, (AWAY, 3600.5))
    used(3605.0, AWAY, (HOME, 3604.0))
    await until(lambda: conflicts(stage))
    with stage.door.watch.held(MONITOR, HOME) as wait_s:
        assert wait_s == 0.0
    with stage.door.watch.held(MONITOR, AWAY) as wait_s:
        assert wait_s == watch.HOLD_S


@pytest.mark.clause("5.4a")
async def test_a_device_that_roams_is_no_conflict_and_at_home_where_it_stays(stage, used) -> None:
    for now_s in (0.0, 100.0, 200.0, 300.0):
        used(now_s, HOME if now_s == 0.0 else AWAY)
    assert stage.door.watch._whereabouts[MONITOR.handle].home == AWAY
    for now_s, address in ((301.0, "127.0.0.3"), (302.0, AWAY), (303.0, "127.0.0.4"), (304.0, "127.0.0.5")):
        used(now_s, address)  # it came back once
    assert conflicts(stage) == []


@pytest.mark.clause("5.4a")
async def test_real_clients_of_one_token_at_two_addresses_are_noticed(stage) -> None:
    """paho comes back by itself each time mosquitto_pub has taken its place."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="bed-7")
    client.reconnect_delay_set(0, 1)
    client.username_pw_set("token-of-monitor")
    times: list[int] = []
    client.on_connect = lambda *_: times.append(1)
    await asyncio.to_thread(client.connect, HOME, stage.port)
    client.loop_start()
    try:
        for turn in range(1, 4):
            await until(lambda turn=turn: len(times) >= turn)
            await run(  # which may lose its place to paho before it is done
                "mosquitto_pub", "-A", AWAY, "-h", HOME, "-p", str(stage.port), "-u", "token-of-monitor", "-i", "bed-7",
                "-q", "1", "-t", TELEMETRY, "-m", '{"hr": 71}',
            )  # fmt: skip
        await until(lambda: conflicts(stage), 20)
    finally:
        await asyncio.to_thread(client.disconnect)
        client.loop_stop()


@pytest.mark.clause("9.3b")
async def test_who_is_revoked_while_it_waits_in_a_conflict_is_not_let_in(stage) -> None:
    for address in (HOME, AWAY, HOME, AWAY):
        await connect(stage, address)
    clone = await reach(stage, AWAY)
    await until(lambda: stage.door.watch._whereabouts[MONITOR.handle].held)
    del stage.identities.tokens["token-of-monitor"]
    assert await clone.next() == ConnAck(5)
    assert await clone.next() is None
    assert stage.door.counters.connections_refused["revoked"] == 1


@pytest.mark.clause("5.4a", "9.3b")
async def test_after_its_wait_in_a_conflict_it_alone_is_looked_at_again(stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not everybody who is connected. While nobody can say, it is let in as all are."""
    looks, revoked = [], stage.identities.revoked

    async def counted(senders):
        looks.append(senders)
        return await revoked(senders)

    monkeypatch.setattr(stage.identities, "revoked", counted)
    cuff = await connect(stage, HOME, "token-of-cuff")
    for address in (HOME, AWAY, HOME, AWAY):
        await connect(stage, address)
    await connect(stage, AWAY)
    assert (looks, stage.door.changes) == ([[MONITOR]], 0)
    held = await reach(stage, AWAY)
    await until(lambda: stage.door.watch._whereabouts[MONITOR.handle].held)
    stage.identities.is_down = True
    assert await held.next() == ConnAck(0)
    cuff.send(encode(Simple(PacketKind.PINGREQ)))
    assert await cuff.next() == Simple(PacketKind.PINGRESP)
    assert looks == [[MONITOR]] * 2


@asynccontextmanager
async def both_doors(stage):
    door: MqttDoor = stage.door
    app = http_door(stage.identities, stage.intake, clock(), StreamReceipts(stage.bus), watch=door.watch)
    async with served(app) as url:
        yield url


async def post(url: str, address: str, token: str = "token-of-monitor") -> None:
    body = HR_72 if token == "token-of-monitor" else b'{"metric": "nibp_sys", "value": 120}'
    transport = httpx.AsyncHTTPTransport(local_address=address)
    async with httpx.AsyncClient(transport=transport) as client:
        answer = await client.post(f"{url}/v1/readings", content=body, headers={
            "Authorization": f"Bearer {token}", "Content-Type": "application/json",
        })  # fmt: skip
        assert answer.status_code == 200, answer.text


@pytest.mark.clause("5.4a", "9.4")
async def test_two_doors_at_once_from_two_addresses_are_a_conflict_and_from_one_are_none(stage) -> None:
    async with both_doors(stage) as url:
        monitor, cuff = await connect(stage, HOME), await connect(stage, HOME, "token-of-cuff")
        for _ in range(3):
            for peer, address, token in ((monitor, AWAY, "token-of-monitor"), (cuff, HOME, "token-of-cuff")):
                await post(url, address, token)
                peer.send(encode(Simple(PacketKind.PINGREQ)))
                assert await peer.next() == Simple(PacketKind.PINGRESP)
        await until(lambda: conflicts(stage))
        assert {notice.handle for notice in conflicts(stage)} == {MONITOR.handle}
        assert stage.door.counters.connections == 2


@pytest.mark.clause("5.4a")
async def test_a_half_open_connection_does_not_speak_so_http_from_elsewhere_is_no_conflict(stage) -> None:
    async with both_doors(stage) as url:
        await connect(stage, HOME)
        for _ in range(4):
            await post(url, AWAY)
        assert stage.bus.notices() == []
