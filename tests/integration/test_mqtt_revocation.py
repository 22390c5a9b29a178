"""Connections of the MQTT door whose credential is good no more."""

from __future__ import annotations

import asyncio

import pytest

from gateways import mqtt_door
from gateways.mqtt import encode
from gateways.mqtt_packets import ConnAck, Connect, PacketKind, Simple
from tests.doors import MONITOR
from tests.mqtt_peer import Raw, opened
from tests.waiting import until

pytestmark = pytest.mark.integration


@pytest.mark.clause("5.4a")
@pytest.mark.clause("9.3b")
async def test_a_connection_ends_as_soon_as_its_credential_is_revoked_and_others_stay():
    async with opened() as stage:
        gone, stays = [await Raw.connect(stage.port, token, client_id=token) for token in ("token-of-monitor", "token-of-cuff")]
        stage.identities.is_down = True
        stage.door.recheck()
        await until(lambda: not stage.door._is_recheck_due.is_set())
        del stage.identities.tokens["token-of-monitor"]
        stage.identities.is_down = False
        stage.door.recheck()
        assert await gone.next() is None
        stays.send(encode(Simple(PacketKind.PINGREQ)))
        assert await stays.next() == Simple(PacketKind.PINGRESP)
        assert stage.door.counters.connections_ended["revoked"] == 1
        await until(lambda: (MONITOR.handle, "offline", "connection revoked") in stage.bus.events())
        again = await Raw.connect(stage.port)
        again.send(encode(Connect("again", username="token-of-monitor")))
        assert await again.next() == ConnAck(5)


@pytest.mark.clause("9.3b")
async def test_who_is_revoked_between_its_question_and_its_answer_does_not_stay(monkeypatch):
    """Its row was read, then it is revoked, and all who are connected are looked at: it is not one of them yet."""
    async with opened() as stage:
        has_read, may_answer, looks = asyncio.Event(), asyncio.Event(), []
        sender_of, revoked = stage.identities.sender_of, stage.identities.revoked

        async def slow(shown):
            sender = await sender_of(shown)
            has_read.set()
            await may_answer.wait()
            return sender

        async def counted(senders):
            looks.append(senders)
            return await revoked(senders)

        monkeypatch.setattr(stage.identities, "sender_of", slow)
        monkeypatch.setattr(stage.identities, "revoked", counted)
        late = await Raw.connect(stage.port)
        late.send(encode(Connect("late", username="token-of-monitor")))
        await has_read.wait()
        del stage.identities.tokens["token-of-monitor"]
        stage.door.recheck()
        await until(lambda: looks)
        may_answer.set()
        assert await late.next() == ConnAck(0)
        assert await late.next() is None
        assert looks == [[], [MONITOR]]
        assert stage.door.counters.connections_ended["revoked"] == 1


@pytest.mark.clause("9.3b")
async def test_a_revoked_connection_ends_even_where_nobody_says_so(monkeypatch):
    monkeypatch.setattr(mqtt_door, "_RECHECK_S", 0.05)
    async with opened() as stage:
        gone = await Raw.connect(stage.port, "token-of-monitor")
        del stage.identities.tokens["token-of-monitor"]
        assert await gone.next() is None


@pytest.mark.clause("9.3b")
async def test_an_unexpected_error_does_not_end_the_watch_over_credentials(monkeypatch):
    async with opened() as stage:
        gone = await Raw.connect(stage.port, "token-of-monitor")
        revoked = stage.identities.revoked
        failures = [RuntimeError("a defect")]

        async def failing(senders):
            if failures:
                raise failures.pop()
            return await revoked(senders)

        monkeypatch.setattr(stage.identities, "revoked", failing)
        stage.door.recheck()
        await until(lambda: not failures)
        del stage.identities.tokens["token-of-monitor"]
        stage.door.recheck()
        assert await gone.next() is None
