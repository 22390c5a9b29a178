"""What the API stands on. `Services` are ports and plain values, wired in `cluster/`; `Backend` adds what one app owns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Final, ParamSpec, Protocol, Self, TypeVar

from fastapi import Depends, Request
from sqlalchemy import Engine

from actors.post import Post
from api.auth import Asking, Callers
from api.directory import Directory
from api.doors import Doors
from api.hosts import Hosts
from api.live.alarms import alarm_feed
from api.live.feed import Feed
from api.live.readings import WantedPool, reading_feed
from api.storage import Storage
from api.telemetry import Telemetry
from api.told import Told
from domain import subjects
from domain.messages import LogState
from domain.ports import Clock, OnceIntake
from runtime.bus import Bus
from runtime.lake import Lake
from runtime.large_questions import LargeReadings
from runtime.log_store import LogReader
from runtime.outbox_relay import OutboxRelay
from runtime.reading_store import ReadingStore
from runtime.rejects import RejectLog
from runtime.sql.records import Author

P = ParamSpec("P")
R = TypeVar("R")
_SQL_THREADS: Final = 4
_RELAY_WAIT_S: Final = 20.0
_CODEC_THREADS: Final = 2
_LIGHT_QUERIES: Final = 4
_HOST_QUERIES: Final = 32
_TELL_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """Where alarm events are POSTed. `secret` is the Standard Webhooks key: `whsec_` + base64, or any text."""

    url: str
    secret: str


class ScenarioLauncher(Protocol):
    """Starts a scenario run in a process of its own and tells how it goes."""

    def list_scenarios(self) -> list[dict[str, object]]:
        """Name, title, story and settable keys of each scenario there is."""
        ...

    async def start(self, name: str, settings: dict[str, str]) -> str:
        """Start a run and return its id. Raises NotFound, InvalidInput, Conflict (one runs already)."""
        ...

    def progress(self, run_id: str) -> dict[str, object]:
        """State of a run. Raises NotFound."""
        ...

    def list_runs(self) -> list[dict[str, object]]:
        """Runs, the newest first."""
        ...

    def report(self, run_id: str, media: str) -> bytes:
        """The report as `html` or `json`. Raises NotFound while there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """Ports and values, all of one region. `webhook` and `scenarios` may be left out."""

    engine: Engine
    bus: Bus
    lake: Lake
    readings: ReadingStore
    intake: OnceIntake
    clock: Clock
    callers: Callers
    region_id: str
    shards: int
    large_readings: LargeReadings
    log: LogReader
    webhook: WebhookTarget | None = None
    scenarios: ScenarioLauncher | None = None


class Lanes:
    """Where blocking work runs, so that no kind of it can starve another or the event loop.

    SQL has its own threads. Of questions to the readings a few light ones run at once here, and many that hosts answer
    alone; heavy ones (searches, aggregates of a region) have a queue and a process of their own
    (`runtime.large_questions`).
    """

    def __init__(self) -> None:
        self._sql = ThreadPoolExecutor(_SQL_THREADS, "api-sql")
        self._codec = ThreadPoolExecutor(_CODEC_THREADS, "api-codec")
        self._light = asyncio.Semaphore(_LIGHT_QUERIES)
        self._of_hosts = asyncio.Semaphore(_HOST_QUERIES)

    async def sql(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run blocking database work in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._sql, lambda: work(*args, **kwargs))

    async def codec(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run encoding or decoding of something large in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._codec, lambda: work(*args, **kwargs))

    async def light(self, question: Awaitable[R]) -> R:
        """Await a small question to the readings."""
        async with self._light:
            return await question

    async def of_hosts(self, question: Awaitable[R]) -> R:
        """Await a question that hosts answer alone: it waits for none that reads the lake."""
        async with self._of_hosts:
            return await question

    def close(self) -> None:
        self._sql.shutdown(wait=False, cancel_futures=True)
        self._codec.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Backend:
    """Services with what this app owns: threads, counters, live feeds, and what the hosts say."""

    services: Services
    lanes: Lanes
    telemetry: Telemetry
    hosts: Hosts
    alarm_feed: Feed
    reading_feed: Feed
    live_wanted: WantedPool
    directory: Directory
    relay: OutboxRelay
    post: Post
    storage: Storage
    doors: Doors
    log_state: Told[LogState]

    @classmethod
    def over(cls, services: Services, telemetry: Telemetry) -> Self:
        return cls(
            services, Lanes(), telemetry, Hosts(services.clock, services.shards), alarm_feed(services.bus),
            reading_feed(services.bus), WantedPool(), Directory(services.engine),
            OutboxRelay(services.engine, services.bus, services.clock), Post(services.bus), Storage(services.clock),
            Doors(services.clock), Told(services.clock, subjects.LOG_STATE, LogState),
        )  # fmt: skip

    async def close(self) -> None:
        """End live streams and let the threads go."""
        await self.alarm_feed.close()
        await self.reading_feed.close()
        self.lanes.close()

    @property
    def rejects(self) -> RejectLog:
        return RejectLog(self.services.bus)

    @property
    def engine(self) -> Engine:
        return self.services.engine

    def author(self, who: Asking) -> Author:
        """Who writes, why and when, for the write log."""
        return Author(who.caller.principal.name, who.reason, self.services.clock.now_us())

    async def read(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a database read."""
        return await self.lanes.sql(work, *args, **kwargs)

    async def write(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a database write that concerns no host."""
        return await self.lanes.sql(work, *args, **kwargs)

    async def tell(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a database write that hosts must know, and wait a moment for it to be in the stream.

        Then whatever the caller sends next is ordered behind it. When the bus is away the write stands all the same,
        and hosts learn of it once the bus is back.
        """
        result = await self.lanes.sql(work, *args, **kwargs)
        await self.hosts_told(_TELL_S)
        return result

    async def hosts_told(self, within_s: float) -> None:
        """Wait until what was written is in the hosts' stream, at most `within_s`."""
        self.relay.nudge()
        await self.relay.settled(within_s)

    async def doors_told(self) -> None:
        """Let doors drop what they remember of tokens and places, and end connections whose token is good no more."""
        await self.services.bus.core_publish(subjects.DIRECTORY_CHANGED, b"")


async def _backend(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


Behind = Annotated[Backend, Depends(_backend)]
