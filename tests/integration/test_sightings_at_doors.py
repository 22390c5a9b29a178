"""What both doors note of whoever they let in, and of nobody else. Clause 8.4a."""

from __future__ import annotations

import httpx
import pytest

from gateways import mqtt_door
from gateways.http_door import http_door
from gateways.mqtt import encode
from gateways.mqtt_packets import ConnAck, Connect
from gateways.watch import Watch
from runtime.clock import ManualClock
from runtime.intake import StreamIntake
from runtime.receipts import StreamReceipts
from tests.doors import MONITOR, NOW_US, DictIdentities, MemoryBus
from tests.mqtt_peer import Raw, opened
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.clause("8.4a")]


async def test_the_mqtt_door_notes_who_was_let_in_and_from_where_and_no_stranger() -> None:
    async with opened() as stage:
        await Raw.connect(stage.port, "token-of-monitor", client_id="pump-software")
        stranger = await Raw.connect(stage.port)
        stranger.send(encode(Connect("stranger", username="a wrong one")))
        assert await stranger.next() == ConnAck(5)
        (seen,) = stage.door.watch.sightings.take(9)
    assert (seen.handle, seen.door, seen.address, seen.over_tls, seen.client) == (
        MONITOR.handle, "mqtt", "127.0.0.1", False, "pump-software",
    )  # fmt: skip


async def test_a_connection_that_lasts_is_noted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_door, "_SIGHTED_EVERY_S", 0.0)
    async with opened() as stage:
        await Raw.connect(stage.port, "token-of-monitor")
        sightings = stage.door.watch.sightings
        assert len(sightings.take(9)) == 1
        sightings._clock.advance(3_600)
        await until(lambda: sightings._waiting)


async def test_the_http_door_notes_the_software_and_no_stranger() -> None:
    clock, bus, identities = ManualClock(NOW_US), MemoryBus(), DictIdentities()
    intake = StreamIntake(bus, identities, clock, source=1)
    watch = Watch(intake, clock)
    app = http_door(identities, intake, clock, StreamReceipts(bus), watch=watch)
    transport = httpx.ASGITransport(app=app, client=("10.0.0.7", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="https://door", headers={"User-Agent": "Cuff/2.1"}) as client:
        for token in ("token-of-monitor", "a wrong one"):
            reading = {"metric": "heart_rate", "value": 70}
            await client.post("/v1/readings", json=reading, headers={"Authorization": f"Bearer {token}"})
    (seen,) = watch.sightings.take(9)
    await intake.close()
    assert (seen.handle, seen.door, seen.address, seen.over_tls, seen.client) == (
        MONITOR.handle, "http", "10.0.0.7", True, "Cuff/2.1",
    )  # fmt: skip
