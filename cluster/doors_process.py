"""The doors' process: MQTT door, HTTP door and the one Intake. Started by `cluster.platform`."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import msgspec
import uvloop

from cluster import limits
from cluster.connection import Connection
from cluster.pki import DOORS, listener_tls
from cluster.processes import tell_ready, until_ended
from cluster.serving import serving
from domain import bus_rights, subjects
from gateways.http_door import http_door
from gateways.mqtt_door import MqttDoor
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
from runtime.settings import IntakeSettings, Settings
from runtime.sql.engine import open_engine
from runtime.storage import of_stream
from runtime.tasks import end

logger = logging.getLogger(__name__)

_TELL_S: Final = 2.0
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
    intake = StreamIntake(
        bus, identities, SystemClock(), source=_DOOR_SOURCE, limits=intake_limits(settings.intake), admission=admission
    )
    await bus.core_subscribe(subjects.STORAGE, lambda payload, _subject: intake.heed(of_stream(payload)))
    doors = settings.doors
    tls = listener_tls(settings, DOORS)
    mqtt = MqttDoor(identities, intake, SystemClock(), limits=limits.mqtt(settings), tls=tls.context if tls else None)
    http = http_door(
        identities, intake, SystemClock(), StreamReceipts(bus), doors.max_payload_bytes, enrolment=BusEnrolment(bus)
    )

    def directory_changed(_payload: bytes, _subject: str) -> None:
        identities.forget()
        mqtt.recheck()

    await bus.core_subscribe(subjects.DIRECTORY_CHANGED, directory_changed)
    mqtt_port = await mqtt.start(doors.host, doors.mqtt_port)
    listener = limits.http_listener(settings.limits)
    of_http = limits.door_http(settings.limits, http.state.counters.connections_refused)
    async with serving(http, doors.host, doors.http_port, tls=tls, limits=listener, http=of_http) as http_port:
        look_seldom()
        tell_ready(mqtt_port=mqtt_port, http_port=http_port)
        logger.info("doors open", extra={"mqtt_port": mqtt_port, "http_port": http_port})
        counted = {"doors": {"mqtt": mqtt.counters, "http": http.state.counters}, "intake": intake.counters}
        telling = asyncio.create_task(_tell(bus, counted), name="tell what is counted")
        await until_ended()
        await end(telling)
        await mqtt.close()
    await intake.close()
    await end(places)
    await bus.close()
    engine.dispose()


async def _tell(bus: Bus, counted: dict[str, Any]) -> None:
    """Tell again and again what doors and Intake count, as `domain.door_counts.DoorsReport`."""
    while True:
        if bus.is_connected:
            await bus.core_publish(subjects.DOORS_COUNTED, msgspec.json.encode(counted))
        await asyncio.sleep(_TELL_S)


def intake_limits(settings: IntakeSettings) -> IntakeLimits:
    return IntakeLimits(settings.gather_ms, settings.gather_readings, settings.max_pending_readings, settings.ack_timeout_s)


if __name__ == "__main__":
    uvloop.run(main())
