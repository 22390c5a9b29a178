"""The doors' process: MQTT door, HTTP door and the one Intake. Started by `cluster.platform`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from api.proxies import BehindProxies
from cluster import limits
from cluster.connection import Connection
from cluster.pki import DOORS, listener_tls
from cluster.processes import tell_ready, until_ended
from cluster.serving import serving
from domain import bus_rights, subjects
from domain.errors import VitalgridError
from domain.traces import DoorAnswer, DoorQuestion
from gateways.door_stamps import DoorStamps
from gateways.http_door import http_door
from gateways.mqtt_door import MqttDoor
from gateways.sightings import Sightings
from gateways.watch import Watch
from runtime.admission import Admission
from runtime.bus import Bus
from runtime.clock import SystemClock
from runtime.enrolment import BusEnrolment
from runtime.garbage import look_seldom
from runtime.identities import SqlIdentities
from runtime.intake import StreamIntake
from runtime.intake_lanes import IntakeLimits
from runtime.log import configure_logging
from runtime.priority import share_finely
from runtime.receipts import StreamReceipts
from runtime.replay_keeping import catch_up, keep, known_now, load, read_on, save
from runtime.replays import Replays
from runtime.setting_sections import IntakeSettings
from runtime.settings import Settings
from runtime.sql.engine import open_engine
from runtime.storage import of_stream
from runtime.tasks import end

logger = logging.getLogger(__name__)

_TELL_S: Final = 2.0
_NUMBERS: Final = "doors/numbers.npz"  # of this process alone; under the data folder
_SIGHTINGS_AT_ONCE: Final = 500
_KEPT_S: Final = 10.0
_DOOR_SOURCE: Final = 1  # in the header of every frame this Intake makes; the API's is 2


async def main() -> None:
    """Serve until asked to end; then take no more, store what was taken, and answer for it."""
    share_finely()
    settings = Settings()
    configure_logging(settings.log_level, settings.log_format)
    connection = Connection.load(settings.data_dir)
    bus = await Bus.connect(connection.nats_url, connection.bus_key(bus_rights.DOORS), "doors")
    engine = open_engine(settings.sql_url_of(settings.doors))
    identities = SqlIdentities(engine)
    places = asyncio.create_task(identities.keep_places(), name="places")
    admission = Admission(asyncio.get_running_loop().time)
    await bus.core_subscribe(subjects.HOSTS_PROGRESS, admission.hear)
    numbers_file = settings.data_dir / _NUMBERS
    replays, unread = await _numbers(bus, numbers_file)
    intake = StreamIntake(
        bus, identities, SystemClock(), source=_DOOR_SOURCE, limits=intake_limits(settings.intake), admission=admission,
        replays=replays,
    )  # fmt: skip
    assert intake.gate is not None
    reading_on = asyncio.create_task(read_on(replays, bus, unread, intake.gate), name="read senders' numbers")
    keeping = asyncio.create_task(keep(replays, numbers_file), name="keep senders' numbers")
    await bus.core_subscribe(subjects.STORAGE, lambda payload, _subject: intake.heed(of_stream(payload)))
    doors, clock = settings.doors, SystemClock()
    tls = listener_tls(settings, DOORS)
    proxies = limits.proxies(settings.limits)
    watch = Watch(intake, clock, proxies.trusts, limits=limits.paces(doors), keeps_words=not settings.seals_files)
    mqtt = MqttDoor(
        identities, intake, clock, limits=limits.mqtt(settings), tls=tls.context if tls else None, watch=watch
    )  # fmt: skip
    http = http_door(
        identities, intake, clock, StreamReceipts(bus), doors.max_payload_bytes, enrolment=BusEnrolment(bus), watch=watch
    )

    def directory_changed(_payload: bytes, _subject: str) -> None:
        identities.forget()
        mqtt.recheck()

    await bus.core_subscribe(subjects.DIRECTORY_CHANGED, directory_changed)
    await _answer_traces(bus, intake, mqtt, http.state.stamps)
    isolated = asyncio.create_task(identities.keep_isolated(mqtt.recheck), name="isolated")
    mqtt_port = await mqtt.start(doors.host, doors.mqtt_port)
    async with serving(
        BehindProxies(http, proxies), doors.host, doors.http_port, tls=tls, limits=limits.http_listener(settings.limits),
        http=limits.door_http(settings.limits, http.state.counters.connections_refused),
    ) as http_port:  # fmt: skip
        look_seldom()
        tell_ready(mqtt_port=mqtt_port, http_port=http_port)
        logger.info("doors open", extra={"mqtt_port": mqtt_port, "http_port": http_port})
        counted = {"doors": {"mqtt": mqtt.counters, "http": http.state.counters}, "intake": intake.counters}
        telling = asyncio.create_task(_tell(bus, counted), name="tell what is counted")
        seeing = asyncio.create_task(_tell_sightings(bus, watch.sightings), name="tell who came")
        await until_ended()
        await end(telling, seeing)
        await mqtt.close()
    await intake.close()
    await end(places, reading_on, keeping, isolated)
    await bus.close()
    engine.dispose()


async def _numbers(bus: Bus, file: Path) -> tuple[Replays, range]:
    """Which numbers of each sender are stored: as kept here, and what came into the stream since; what of it is unread yet."""
    replays = await asyncio.to_thread(load, file, asyncio.get_running_loop().time())
    frames, unread = await catch_up(replays, bus)
    logger.info("senders' numbers are known", extra={"frames_since": frames, "unread": len(unread)})
    await asyncio.to_thread(_save_first, file, replays)
    return replays, unread


def _save_first(file: Path, replays: Replays) -> None:
    """Say from where on numbers are known, before any is taken: doors that are killed soon look for what came since."""
    if not file.exists():
        with contextlib.suppress(OSError):  # a full disk: `keep` says so
            save(file, known_now(replays))


async def _answer_traces(bus: Bus, intake: StreamIntake, mqtt: MqttDoor, stamps: DoorStamps) -> None:
    """Answer what these doors remember of a message, and of who was connected."""

    async def remembered(payload: bytes, _subject: str) -> bytes:
        asked = msgspec.json.decode(payload, type=DoorQuestion)
        requests = [one for one in stamps.requests_of(asked.sequence) if one.sender in asked.senders]
        connections = mqtt.connections_of(asked.senders, asked.arrival_us)
        return msgspec.json.encode(DoorAnswer(intake.stamps.find(asked.sequence), requests, connections))

    await bus.answer(subjects.DOOR_STAMPS, remembered)


async def _tell(bus: Bus, counted: dict[str, Any]) -> None:
    """Tell again and again what doors and Intake count, as `domain.door_counts.DoorsReport`."""
    while True:
        if bus.is_connected:
            await bus.core_publish(subjects.DOORS_COUNTED, msgspec.json.encode(counted))
        await asyncio.sleep(_TELL_S)


async def _tell_sightings(bus: Bus, sightings: Sightings) -> None:
    """Tell the API again and again who came, until it has kept it; while it is away they wait."""
    while True:
        await asyncio.sleep(_TELL_S)
        while seen := sightings.take(_SIGHTINGS_AT_ONCE):
            try:
                await bus.ask(subjects.SIGHTINGS, msgspec.json.encode(seen), _KEPT_S)
            except VitalgridError:
                sightings.again(seen)
                break


def intake_limits(settings: IntakeSettings) -> IntakeLimits:
    return IntakeLimits(settings.gather_ms, settings.gather_readings, settings.max_pending_readings, settings.ack_timeout_s)


if __name__ == "__main__":
    uvloop.run(main())
