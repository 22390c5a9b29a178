"""Storage is watched here: what lies where, who is told how much room there is, and a stream that stopped storing.

nats-server does not take up a stream again whose write failed once (a full disk): it answers no message of that stream
until it is started anew, however much room there is by then. So a stream that processes complain of and that has not
moved since is brought back by restarting the server, as soon as its disk can be written. Nothing that was acknowledged
is lost by that; clients reconnect and go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import make_url

from domain import subjects
from domain.errors import Unavailable
from domain.messages import StorageLevel, StorageState
from runtime.bus import Bus
from runtime.settings import Settings
from runtime.storage import STREAM, Place, StorageWatch

logger = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
_SILENT_S: Final = 8.0  # a stream that has stored nothing for so long while somebody waits for it
_FORGET_S: Final = 8.0  # a complaint; who still waits says so again before
_RESTART_EVERY_S: Final = 30.0
_STREAMS: Final = {
    prefix: name
    for name, wanted in (
        (subjects.READINGS_STREAM, subjects.READINGS_SUBJECTS),
        (subjects.ALARMS_STREAM, subjects.ALARMS_SUBJECTS),
        (subjects.REJECTS_STREAM, subjects.REJECTS_SUBJECTS),
        (subjects.AUDIT_STREAM, subjects.AUDIT_SUBJECTS),
    )
    for prefix in (subject.partition(".")[0] for subject in wanted)
}


def places_of(settings: Settings) -> list[Place]:
    """Where the platform keeps what. A database server's disk is its own affair."""
    data_dir = settings.data_dir.resolve()
    places = [
        Place(STREAM, data_dir / "nats"),
        Place("lake", settings.lake_dir.resolve()),
        Place("snapshots", data_dir / "snapshots"),
        Place("audit", settings.audit_dir.resolve()),
        Place("log", data_dir / "log"),
    ]
    database = make_url(settings.sql_url)
    if database.get_backend_name() == "sqlite" and database.database:
        places.append(Place("database", Path(database.database).resolve().parent))
    return places


class StreamComplaints:
    """Which streams store nothing although somebody waits. Told of complaints and of how far each stream is."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._heard_s: dict[str, float] = {}
        self._stands: dict[str, tuple[int | None, float]] = {}  # where a stream stands (None: unknown), since when

    def hear(self, payload: bytes, _subject: str) -> None:
        """A message of the subject in `payload` was not acknowledged."""
        stream = _STREAMS.get(payload.decode(errors="replace").partition(".")[0])
        if stream is not None:
            self._heard_s[stream] = self._now_s()

    def open(self) -> list[str]:
        """Streams that somebody complained of lately."""
        now_s = self._now_s()
        self._heard_s = {stream: at_s for stream, at_s in self._heard_s.items() if now_s - at_s < _FORGET_S}
        self._stands = {stream: stand for stream, stand in self._stands.items() if stream in self._heard_s}
        return sorted(self._heard_s)

    def stands(self, stream: str, sequence: int | None) -> bool:
        """Whether the stream, now at `sequence`, has stood still for too long."""
        known = self._stands.get(stream)
        if known is None or (sequence is not None and known[0] is not None and sequence > known[0]):
            known = self._stands[stream] = (sequence, self._now_s())
        return self._now_s() - known[1] >= _SILENT_S

    def forget(self) -> None:
        self._heard_s.clear()
        self._stands.clear()


class StorageKeeper:
    """Run `run` beside the platform. `end_server` ends nats-server, which whoever keeps it starts again."""

    def __init__(self, bus: Bus, watch: StorageWatch, end_server: Callable[[], Awaitable[None]]) -> None:
        self._bus = bus
        self._watch = watch
        self._end_server = end_server
        self._complaints = StreamComplaints()
        self._restarted_s = 0.0

    async def run(self) -> None:
        """Look, tell, and mend, for ever."""
        await self._bus.core_subscribe(subjects.STREAM_SILENT, self._complaints.hear)
        while True:
            try:
                states = await asyncio.to_thread(self._watch.look)
                await self._bus.core_publish(subjects.STORAGE, msgspec.json.encode(states))
                await self._mend(states)
            except (OSError, Unavailable) as error:  # the next round tries again
                logger.warning("storage could not be looked after: %s", error)
            await asyncio.sleep(_LOOK_S)

    async def _mend(self, states: Sequence[StorageState]) -> None:
        """Restart the server when a stream is stuck that could store."""
        stuck = [stream for stream in self._complaints.open() if self._complaints.stands(stream, await self._at(stream))]
        can_write = all(state.level is not StorageLevel.FULL for state in states if state.name == STREAM)
        if not stuck or not can_write or time.monotonic() - self._restarted_s < _RESTART_EVERY_S:
            return
        logger.error("streams store nothing though their disk can be written: nats-server is restarted",
                     extra={"streams": ", ".join(stuck)})  # fmt: skip
        self._restarted_s = time.monotonic()
        await self._end_server()
        self._complaints.forget()

    async def _at(self, stream: str) -> int | None:
        with contextlib.suppress(Unavailable):
            return (await self._bus.stream_state(stream)).last_sequence
        return None
