"""What runs beside the requests: alarm desk, pauses, relays, webhook. Each is restarted when it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

import msgspec

from api.hand_overs import lead_hand_overs
from api.risk_watch import watch_risks
from api.security_desk import SecurityDesk, forget_old_events
from api.services import Backend
from api.webhook import Webhook
from domain import subjects
from domain.alarms import AlarmEvent
from domain.sightings import Sighting
from runtime.follower import StreamMessage
from runtime.sql.alarms import apply_alarm_events, expire_pauses, position_of
from runtime.sql.sightings import keep_sightings
from runtime.tasks import end
from runtime.write_relay import WriteRelay

logger = logging.getLogger(__name__)

_BATCH: Final = 500
_QUEUE: Final = 5_000
_FIRST_RESTART_S: Final = 0.2
_LAST_RESTART_S: Final = 10.0
_STABLE_S: Final = 60.0
_PAUSES_EVERY_S: Final = 1.0
_decoder: Final = msgspec.json.Decoder(AlarmEvent)
_sightings_decoder: Final = msgspec.json.Decoder(list[Sighting])


class AlarmDesk:
    """Brings the alarm stream into the business database, in batches, from the position stored there."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def run(self) -> None:
        """Project for ever. Raises what breaks it; started again it goes on at the stored position."""
        services = self._backend.services
        position = await self._backend.lanes.sql(position_of, services.engine)
        waiting: asyncio.Queue[StreamMessage] = asyncio.Queue()
        follower = await services.bus.follow(
            subjects.ALARMS_STREAM, list(subjects.ALARMS_SUBJECTS), position + 1, waiting.put_nowait
        )
        try:
            while True:
                batch = [await waiting.get()]
                while len(batch) < _BATCH and not waiting.empty():
                    batch.append(waiting.get_nowait())
                if waiting.qsize() > _QUEUE:
                    follower.pause()
                await self._backend.lanes.sql(apply_alarm_events, services.engine, _events(batch))
                if waiting.qsize() < _QUEUE // 2:
                    follower.resume()
        finally:
            await follower.stop()


def _events(batch: list[StreamMessage]) -> list[tuple[int, AlarmEvent]]:
    events = []
    for message in batch:
        try:
            events.append((message.sequence, _decoder.decode(message.payload)))
        except msgspec.DecodeError:  # one bad message must not stop the desk; it stays in the stream
            logger.exception("an alarm event cannot be read", extra={"sequence": message.sequence})
    return events


class Sightings:
    """Keeps what doors tell of those who came, and answers once it is kept."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def run(self) -> None:
        """Answer for ever."""
        unsubscribe = await self._backend.services.bus.answer(subjects.SIGHTINGS, self.keep)
        try:
            await asyncio.Event().wait()
        finally:
            await unsubscribe()

    async def keep(self, payload: bytes, _subject: str) -> bytes:
        """Raises Unavailable: the doors ask again."""
        try:
            seen = _sightings_decoder.decode(payload)
        except msgspec.DecodeError:  # to ask again would not help
            logger.exception("what doors saw cannot be read")
            return b""
        changed = await self._backend.lanes.sql(keep_sightings, self._backend.engine, seen)
        for row in changed:
            parts = [name for name, value in row["parts"].items() if (row["parts_before"] or {}).get(name) != value]
            logger.warning("a device's fingerprint changed", extra={"handle": row["device_handle"], "changed": parts})
        return b""


async def expire_audio_pauses(backend: Backend) -> None:
    """End audio pauses when their time has come, for ever."""
    while True:
        await backend.lanes.sql(expire_pauses, backend.services.engine, backend.services.clock.now_us())
        await asyncio.sleep(_PAUSES_EVERY_S)


def tasks_of(backend: Backend) -> dict[str, Callable[[], Awaitable[None]]]:
    """The background tasks by name. The first two end by themselves."""
    tasks: dict[str, Callable[[], Awaitable[None]]] = {
        "directory": backend.directory.warmed,
        "inventory": backend.inventory.warmed,
        "alarm-desk": AlarmDesk(backend).run,
        "security-desk": SecurityDesk(backend).run,
        "old-security-events": lambda: forget_old_events(backend),
        "audio-pauses": lambda: expire_audio_pauses(backend),
        "sightings": Sightings(backend).run,
        "outbox-relay": backend.relay.run,
        "write-relay": WriteRelay(backend.engine, backend.services.bus, backend.services.region_id).run,
        "risks": lambda: watch_risks(backend),
        "hand-overs": lambda: lead_hand_overs(backend),
    }
    if backend.services.webhook is not None:
        tasks["webhook"] = Webhook(backend, backend.services.webhook).run
    return tasks


@contextlib.asynccontextmanager
async def running(backend: Backend, tasks: Mapping[str, Callable[[], Awaitable[None]]]) -> AsyncIterator[None]:
    """Keep `tasks` running while the context is open."""
    keepers = [asyncio.create_task(_keep(backend, name, work), name=name) for name, work in tasks.items()]
    try:
        yield
    finally:
        await end(*keepers)


async def _keep(backend: Backend, name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work`; when it breaks, log it and start it again, later each time it breaks soon."""
    loop = asyncio.get_running_loop()
    delay_s = _FIRST_RESTART_S
    said: type[Exception] | None = None  # of what it broke last: a disk that stays full is said once
    while True:
        started_s = loop.time()
        try:
            await work()
            return
        except Exception as error:  # whatever it was, the others go on and this one is tried again
            was_stable = loop.time() - started_s > _STABLE_S
            if was_stable or type(error) is not said:
                logger.exception("a background task broke and is started again", extra={"task": name})
            said = type(error)
            backend.telemetry.task_failures.labels(name).inc()
        if was_stable:
            delay_s = _FIRST_RESTART_S
        await asyncio.sleep(delay_s)
        delay_s = min(2 * delay_s, _LAST_RESTART_S)
