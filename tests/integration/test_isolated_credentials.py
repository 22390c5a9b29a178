"""What an isolated device has to show opens nothing: no door, no claim, no renewal; what was revoked stays so. Real clients."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import Engine

from gateways.mqtt_door import MqttDoor
from runtime.sql import devices, isolations
from runtime.sql.credentials import credentials_of
from tests.enrolment import Doors, Held, open_doors
from tests.openssl import needs_openssl
from tests.sql_fixtures import ADA, SmallHospital
from tests.waiting import until

pytestmark = [pytest.mark.integration, needs_openssl, pytest.mark.clause("8.4d"), pytest.mark.clause("9.4")]
REFUSED = (401, "wrong-certificate")


async def opens(doors: Doors, held: Held, token: str) -> list[bool]:
    """Whether HTTP and MQTT let it in: by its certificate, by its token."""
    bearer = ("-H", f"Authorization: Bearer {token}")
    return [
        (await doors.post(held))[0] == 200, (await doors.mosquitto(held))[0] == 0,
        (await doors.post(None, *bearer))[0] == 200, (await doors.mosquitto(None, "-u", "mon-7", "-P", token))[0] == 0,
    ]  # fmt: skip


@pytest.mark.parametrize("is_revoked", [False, True])
async def test_an_isolated_device_neither_connects_nor_claims_nor_renews(
    engine: Engine, hospital: SmallHospital, tmp_path: Path, *, is_revoked: bool
) -> None:
    monitor = hospital.monitor["handle"]
    token = devices.rotate_token(engine, ADA, monitor)
    async with open_doors(engine, tmp_path) as doors:
        held, code = await doors.enrolled(monitor, "monitor"), doors.code_of(monitor)
        assert await opens(doors, held, token) == [True] * 4
        isolations.isolate(engine, ADA, monitor, revoke=is_revoked)
        renewed, claimed = Held.make(tmp_path, "renewed"), Held.make(tmp_path, "claimed")
        assert (await doors.renew(renewed, held))[0] in (401, 409)  # the door was not told yet, and lets it in
        doors.told()
        assert await opens(doors, held, token) == [False] * 4
        assert (await doors.renew(renewed, held))[0] == 401
        assert [(await doors.claim(code, one))[0] for one in (claimed, None)] == [401 if is_revoked else 409] * 2
        isolations.release(engine, ADA, monitor)
        doors.told()
        assert await opens(doors, held, token) == [not is_revoked] * 4
        assert (await doors.renew(renewed, held))[0] == (401 if is_revoked else 200)
        assert (await doors.claim(code, claimed))[0] == (401 if is_revoked else 200)
        fresh = await doors.enrolled(monitor, "fresh")
        assert await doors.post(fresh) == (200, "")
        ended = {row["kind"] for row in credentials_of(engine, monitor) if row["kind"] != "token" and row["revoked_us"]}
        assert ended == ({"certificate", "claim-code"} if is_revoked else set())


async def test_a_certificate_that_was_revoked_renews_itself_not_even_at_a_door_that_was_not_told(
    engine: Engine, hospital: SmallHospital, tmp_path: Path
) -> None:
    monitor = hospital.monitor["handle"]
    async with open_doors(engine, tmp_path) as doors:
        thief = await doors.enrolled(monitor, "thief")
        assert await doors.post(thief) == (200, "")
        isolations.isolate(engine, ADA, monitor, revoke=True)
        isolations.release(engine, ADA, monitor)
        assert await doors.post(thief) == (200, "")  # for a moment, as the door remembers it
        assert (await doors.renew(Held.make(tmp_path, "next"), thief))[0] == 401
        assert [row["kind"] for row in credentials_of(engine, monitor) if not row.get("revoked_us")] == []


async def test_a_connection_by_certificate_is_ended_though_the_word_of_the_isolation_was_lost(
    engine: Engine, hospital: SmallHospital, tmp_path: Path
) -> None:
    monitor = hospital.monitor["handle"]
    async with open_doors(engine, tmp_path) as doors:
        held = await doors.enrolled(monitor, "monitor")
        looking = asyncio.create_task(doors.identities.keep_isolated(doors.mqtt.recheck))
        listener = await listening(doors.mqtt, doors, held)
        try:
            isolations.isolate(engine, ADA, monitor)  # and nobody tells the doors
            await until(lambda: doors.mqtt.counters.connections_ended["revoked"] == 1, 8)
            assert await doors.post(held) == REFUSED
            assert (await doors.mosquitto(held))[0] != 0
        finally:
            looking.cancel()
            listener.kill()
            await listener.wait()


async def listening(mqtt: MqttDoor, doors: Doors, held: Held) -> asyncio.subprocess.Process:
    """mosquitto_sub by its certificate, connected."""
    accepted = mqtt.counters.connections_accepted
    process = await asyncio.create_subprocess_exec(
        "mosquitto_sub", "-h", "127.0.0.1", "-p", str(doors.mqtt_port), "--cafile", str(doors.ca), "-i", "live",
        "--cert", str(held.certificate), "--key", str(held.key), "-t", "v1/devices/me/errors", "-W", "30",
    )  # fmt: skip
    await until(lambda: mqtt.counters.connections_accepted > accepted)
    return process
