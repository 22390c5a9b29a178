"""Peers that make the MQTT door wait, flood it or do not read what it says: each is ended, and nobody else is held up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from itertools import pairwise

import pytest

from gateways import listener
from gateways.mqtt import encode, encode_publish
from gateways.mqtt_connection import CONTROLS_AT_ONCE, MqttConnection
from gateways.mqtt_packets import ConnAck, Connect, ConnectCode, PacketKind, Simple, Subscribe
from gateways.paces import PaceLimits
from tests.doors import CUFF, MONITOR, make_certificate
from tests.mqtt_peer import HR_72, READINGS, Raw, opened
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.clause("9.1b")]
CONNECT = encode(Connect("raw", username="token-of-monitor"))
PING = encode(Simple(PacketKind.PINGREQ))


async def acknowledged(port: int) -> None:
    """One reading by an honest device, until its PUBACK."""
    honest = await Raw.connect(port, "token-of-cuff", client_id="honest")
    honest.send(encode_publish(READINGS, HR_72.replace(b"heart_rate", b"nibp_sys"), qos=1, packet_id=1))
    packet = await honest.next()
    assert packet is not None
    assert packet.kind is PacketKind.PUBACK
    honest.drop()


async def test_a_connect_that_comes_byte_by_byte_has_one_time_for_all_of_it() -> None:
    async with opened(connect_timeout_s=0.5) as stage:
        dripping = await Raw.connect(stage.port)

        async def drip() -> None:
            for byte in CONNECT[:-1]:
                dripping.send(bytes((byte,)))
                await asyncio.sleep(0.05)

        dripper = asyncio.create_task(drip())
        assert await dripping.next() is None
        assert not dripper.done()
        dripper.cancel()
        await acknowledged(stage.port)


async def test_who_does_not_read_its_answers_is_ended() -> None:
    async with opened(write_timeout_s=0.5) as stage:
        stage.door._listener._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)  # else the kernel takes megabytes
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(deaf, ("127.0.0.1", stage.port))
        await loop.sock_sendall(deaf, CONNECT)
        assert await loop.sock_recv(deaf, 4) == encode(ConnAck(0))
        pings = PING * 20_000
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                while not stage.door.counters.connections_ended["slow-reader"]:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.2):
                            await loop.sock_sendall(deaf, pings)
        await until(lambda: stage.door.counters.connections_ended["slow-reader"] == 1)
        deaf.close()
        await acknowledged(stage.port)


async def test_what_comes_before_a_good_token_is_small() -> None:
    async with opened() as stage:
        large = await Raw.connect(stage.port)
        large.send(bytes((0x10, 0xFF, 0xFF, 0x03)))
        assert await large.next() is None
        assert stage.door.counters.connections_refused["malformed"] == 1


async def test_silent_peers_do_not_keep_a_device_out() -> None:
    async with opened(connect_timeout_s=60, max_strangers=20, max_strangers_per_address=10) as stage:
        silent = [await Raw.connect(stage.port) for _ in range(50)]
        await acknowledged(stage.port)
        await until(lambda: stage.door.counters.connections_refused["crowded-out"] >= 5)
        for peer in silent:
            peer.drop()


async def test_devices_that_are_connected_are_no_strangers() -> None:
    tokens = ("token-of-monitor", "token-of-cuff", "token-of-gateway")
    async with opened(max_strangers=1, max_strangers_per_address=1) as stage:
        peers = [await Raw.connect(stage.port, token, client_id=token) for token in tokens]
        assert stage.door.counters.connections == 3
        assert stage.door.counters.connections_refused.total() == 0
        for peer in peers:
            peer.drop()


async def test_an_address_that_tries_many_tokens_is_answered_late_and_a_device_there_is_not(monkeypatch) -> None:
    delay_s = 0.75  # for each guess beyond those that are free: by far more than an answer takes
    monkeypatch.setattr(listener, "_DELAY_S", delay_s)
    monkeypatch.setattr(listener, "_FORGIVEN_A_S", 0.0)
    async with opened() as stage:
        loop = asyncio.get_running_loop()
        taken_s = []
        for number in range(22):
            began_s = loop.time()
            guessing = await Raw.connect(stage.port)
            guessing.send(encode(Connect("raw", username=f"guess-{number}")))
            assert await guessing.next() == ConnAck(ConnectCode.NOT_AUTHORISED)
            taken_s.append(loop.time() - began_s)
        assert min(taken_s[:20]) < delay_s
        assert taken_s[-1] >= 2 * delay_s
        began_s = loop.time()
        await acknowledged(stage.port)
        assert loop.time() - began_s < 2 * delay_s


async def test_half_a_handshake_is_ended_and_others_shake_hands_meanwhile(tmp_path) -> None:
    context, certificate = make_certificate(tmp_path)
    limits = {"connect_timeout_s": 0.8, "max_strangers": 10, "max_strangers_per_address": 10}
    async with opened(tls=context, **limits) as stage:
        silent = [await Raw.connect(stage.port) for _ in range(30)]
        garbage = await Raw.connect(stage.port)
        garbage.send(b"GET / HTTP/1.1\r\n\r\n")
        client = ssl.create_default_context(cafile=certificate)
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", stage.port, ssl=client)
            writer.write(CONNECT)
            assert await reader.readexactly(4) == encode(ConnAck(0))
        await until(lambda: stage.door.counters.connections_refused["handshake"] >= 10)
        writer.transport.abort()
        for peer in silent:
            peer.drop()


async def test_a_defect_at_one_connection_keeps_no_other_from_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    look_after = MqttConnection.look_after

    def fails_for_one(connection: MqttConnection, now_s: float) -> bool:
        if connection.sender is CUFF:
            raise RuntimeError("a defect")
        return look_after(connection, now_s)

    async with opened() as stage:
        broken = await Raw.connect(stage.port, "token-of-cuff")
        silent = await Raw.connect(stage.port, "token-of-monitor", keep_alive_s=1)
        monkeypatch.setattr(MqttConnection, "look_after", fails_for_one)
        assert await broken.next() is None
        assert await silent.next() is None
        assert stage.door.counters.connections_ended == {"defect": 1, "keep-alive": 1}


async def test_who_pings_without_end_leaves_others_their_turn_and_is_answered_in_order() -> None:
    pings = 5_000
    async with opened(pace=PaceLimits(device_readings_a_s=10**6)) as stage:
        pace, loop, left = stage.door.watch.paces.of(MONITOR), asyncio.get_running_loop(), []

        def look() -> None:
            left.append(pace.left)
            loop.call_soon(look)

        peer = await Raw.connect(stage.port, "token-of-monitor")
        look()
        peer.send(PING * pings, encode_publish(READINGS, HR_72, qos=1, packet_id=1), PING * pings, PING[:1])
        answers = [(await peer.next()).kind for _ in range(2 * pings + 1)]
        assert answers.index(PacketKind.PUBACK) >= pings
        assert answers.count(PacketKind.PINGRESP) == 2 * pings
        peer.send(PING[1:])
        assert await peer.next() == Simple(PacketKind.PINGRESP)
        taken = [before - after for before, after in pairwise(left)]
        assert CONTROLS_AT_ONCE <= max(taken) <= CONTROLS_AT_ONCE + 1


async def test_a_subscribe_of_very_many_topics_is_not_read() -> None:
    async with opened() as stage:
        peer = await Raw.connect(stage.port, "token-of-monitor")
        peer.send(encode(Subscribe(1, (("t", 1),) * 5_000)))
        assert await peer.next() is None
        assert stage.door.counters.connections_ended == {"malformed": 1}
        await acknowledged(stage.port)


async def test_of_two_connects_of_one_device_the_newer_stays_whichever_was_looked_up_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened() as stage:
        asked, may_answer, sender_of = [], asyncio.Event(), stage.identities.sender_of

        async def first_is_late(shown):
            asked.append(shown)
            if len(asked) == 1:
                await may_answer.wait()
            return await sender_of(shown)

        monkeypatch.setattr(stage.identities, "sender_of", first_is_late)
        older = await Raw.connect(stage.port)
        older.send(CONNECT)
        await until(lambda: asked)
        newer = await Raw.connect(stage.port, "token-of-monitor")
        may_answer.set()
        assert await older.next() == ConnAck(ConnectCode.SERVER_UNAVAILABLE)
        assert await older.next() is None
        newer.send(encode_publish(READINGS, HR_72, qos=1, packet_id=1))
        assert (await newer.next()).kind is PacketKind.PUBACK
        assert stage.door.counters.connections_refused == {"taken-over": 1}
        assert stage.door.counters.connections_ended == {}
