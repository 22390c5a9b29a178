"""Live streams in the application's own process: a bus that a test says messages on, and clients that listen."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from fastapi import FastAPI

from domain import subjects
from domain.alarms import AlarmEvent, AlarmSubject, AlertType, Phase, Priority
from domain.frames import encode_frame
from domain.readings import ReadingBatch
from runtime.bus import StreamState
from runtime.follower import StreamMessage
from runtime.sql.outbox import unpublished
from runtime.tasks import end
from tests.sql_fixtures import NOW_US
from tests.unit.api.small_platform import SmallPlatform
from tests.unit.api.wards import HEART, PLACES, WORN
from tests.waiting import until


class Follower:
    pending = 0

    async def stop(self) -> None:
        pass


class LivePlatform(SmallPlatform):
    """With streams that `say` adds a message to."""

    is_connected = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._followers: list[Callable[[StreamMessage], None]] = []
        self._said = 0

    async def stream_state(self, _stream: str) -> StreamState:
        return StreamState(1, self._said, self._said, 0)

    async def follow(self, _stream: str, _subjects: Any, _first: int, receive: Callable[[StreamMessage], None]) -> Follower:
        self._followers.append(receive)
        return Follower()

    def say(self, device: str, patient_key: str | None = None) -> None:
        """An alarm of a device, and of a patient, is notified."""
        self._said += 1
        hospital_id, ward_id = PLACES[WORN[device]]
        subject = AlarmSubject(hospital_id, ward_id, device_id=device, patient_key=patient_key)
        event = AlarmEvent(
            f"e-{self._said}", f"a-{device}", Phase.START, AlertType.PHYSIOLOGICAL, Priority.HIGH, "limit.high", 1,
            subject, NOW_US, NOW_US, NOW_US, "heart rate high",
        )  # fmt: skip
        self._give(subjects.alarm(hospital_id), msgspec.json.encode(event))

    def measure(self, shard: int, handle: int) -> None:
        """A frame with a heart rate is stored."""
        self._said += 1
        readings = ReadingBatch.of(handle=handle, metric=HEART, time_us=NOW_US, value=70.0)
        frame = encode_frame(readings, source=handle, sequence=1, arrival_us=NOW_US)
        self._give(subjects.reading(shard), frame)

    def learn(self) -> None:
        """… and live streams hear of it at the same time."""
        waiting = unpublished(self._engine, 10_000)
        super().learn()
        for row in waiting:
            self._said += 1
            self._give(row["subject"], row["payload"])

    def _give(self, subject: str, payload: bytes) -> None:
        for receive in self._followers:
            receive(StreamMessage(subject, self._said, payload, NOW_US))


@dataclass
class Listener:
    """A client of a live stream, in the application's own process."""

    status: int = 0
    body: bytes = b""
    is_over: bool = False
    leaves: asyncio.Event = field(default_factory=asyncio.Event)


@contextlib.asynccontextmanager
async def listening(app: FastAPI, who: str, path: str) -> AsyncIterator[Listener]:
    heard = Listener()
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": f"/api/v1/{path.partition('?')[0]}", "raw_path": b"", "query_string": path.partition("?")[2].encode(),
        "root_path": "", "headers": [(b"authorization", f"Bearer {who}".encode())], "client": ("127.0.0.1", 1),
        "server": ("test", 80),
    }  # fmt: skip
    is_asked = False

    async def receive() -> dict[str, Any]:
        nonlocal is_asked
        if not is_asked:
            is_asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await heard.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        heard.status = message.get("status", heard.status)
        heard.body += message.get("body", b"")
        heard.is_over = message["type"] == "http.response.body" and not message.get("more_body", False)

    serving = asyncio.create_task(app(scope, receive, send))
    try:
        await until(lambda: b"hello" in heard.body or heard.is_over)
        yield heard
    finally:
        heard.leaves.set()
        await end(serving)
