"""What the API stands on. `Services` are ports and plain values, wired in `cluster/`; `Backend` adds what one app owns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Final, ParamSpec, Protocol, Self, TypeVar

from fastapi import Depends, Request
from sqlalchemy import Engine

from actors.post import Post
from api.asking import Asking
from api.auth import Callers
from api.directory import Directory
from api.doors import Doors
from api.hosts import Hosts
from api.inventory import Inventory
from api.lanes import Lanes
from api.live.alarms import alarm_feed
from api.live.apart import Apart
from api.live.feed import Feed
from api.live.readings import WantedPool, reading_feed
from api.second_factor_set_up import SecondFactorSetUp
from api.sign_in import Listeners, Secrets, SignIn, SignInRules
from api.sign_in_failures import SignInFailures
from api.storage import Storage
from api.telemetry import Telemetry
from api.told import Told
from domain import subjects
from domain.messages import LogState
from domain.permissions import Authoriser, Level
from domain.ports import Clock, OnceIntake
from domain.principals import Place
from domain.risks import Posture
from runtime.access_journal import AccessJournal
from runtime.access_trail import AccessTrail
from runtime.bus import Bus
from runtime.device_authority import DeviceAuthority
from runtime.lake import Lake
from runtime.large_questions import LargeReadings
from runtime.log_store import LogReader
from runtime.outbox_relay import OutboxRelay
from runtime.password_hashes import PasswordHashes
from runtime.reading_store import ReadingStore
from runtime.rejects import RejectLog
from runtime.retention import Periods
from runtime.second_factors import SecondFactors
from runtime.setting_sections import LakeSettings, RetentionSettings
from runtime.sql.credentials import EnrolmentRules
from runtime.sql.isolations import all_orders
from runtime.sql.records import Author
from runtime.tls import Trust

P = ParamSpec("P")
R = TypeVar("R")
_TELL_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """Where alarm events are POSTed. `secret` is the Standard Webhooks key: `whsec_` + base64, or any text. `trust`: by what
    a receiver with https is known. It gets alarms at `place` (None: in the region) up to `highest_level`.
    """

    url: str
    secret: str
    trust: Trust = field(default_factory=Trust)
    place: Place | None = None
    highest_level: Level = Level.IDENTIFYING


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
    """Ports and values, all of one region. What has a default may be left out.

    `hospitals_bus`: a connection for programs of hospitals alone, that what they send holds up nothing else.
    `over_tls`: browsers reach the API by TLS only. `first_password_file` is deleted once that password was changed.
    `credential_days`: after which a device's credential is old.
    `posture`: how the platform is set up, for the register of risks.
    """

    engine: Engine
    bus: Bus
    lake: Lake
    readings: ReadingStore
    intake: OnceIntake
    clock: Clock
    callers: Callers
    authoriser: Authoriser
    region_id: str
    shards: int
    large_readings: LargeReadings
    log: LogReader
    passwords: PasswordHashes
    second_factors: SecondFactors
    sign_in_rules: SignInRules
    accesses: AccessJournal
    device_authority: DeviceAuthority
    enrolment_rules: EnrolmentRules
    periods: Periods = Periods.of(RetentionSettings(), LakeSettings())  # noqa: RUF009 (frozen)
    certificate_vkeys: Callable[[], tuple[str, ...]] = tuple  # of certificates of erasure
    hospitals_bus: Bus | None = None
    over_tls: bool = False
    credential_days: int = 365
    first_password_file: Path | None = None
    posture: Posture | None = None
    webhook: WebhookTarget | None = None
    scenarios: ScenarioLauncher | None = None


async def user_changed(services: Services, user_id: str) -> None:
    """Let what became of a user or token, a session or grants hold at once: here, and in every other API process."""
    services.callers.forget(user_id)
    with contextlib.suppress(Exception):  # the bus is away: others ask the database within seconds
        await services.bus.core_publish(subjects.SESSIONS_CHANGED, user_id.encode())


@dataclass(frozen=True, slots=True)
class Backend:
    """Services with what this app owns: threads, counters, live feeds, and what the hosts say."""

    services: Services
    lanes: Lanes
    telemetry: Telemetry
    hosts: Hosts
    alarm_feed: Feed
    reading_feed: Feed
    apart: Apart
    live_wanted: WantedPool
    directory: Directory
    relay: OutboxRelay
    post: Post
    storage: Storage
    doors: Doors
    log_state: Told[LogState]
    sign_in: SignIn
    trail: AccessTrail
    second_factor: SecondFactorSetUp
    inventory: Inventory

    @classmethod
    def over(cls, services: Services, telemetry: Telemetry) -> Self:
        lanes, changed, apart = Lanes(), partial(user_changed, services), Apart()
        log_state = Told(services.clock, subjects.LOG_STATE, LogState)
        trail = AccessTrail(services.accesses, services.bus, log_state.newest)
        sign_in = SignIn(
            services.engine, Secrets(services.passwords, services.second_factors), lanes, services.clock,
            services.sign_in_rules, Listeners(changed, SignInFailures(trail, services.clock, services.region_id)),
            services.first_password_file,
        )  # fmt: skip
        second_factor = SecondFactorSetUp(
            services.engine, sign_in, services.second_factors, lanes, services.clock, changed,
            issuer=f"Vitalgrid {services.region_id}",
        )  # fmt: skip
        return cls(
            services, lanes, telemetry, Hosts(services.clock, services.shards), alarm_feed(services.bus),
            reading_feed(services.bus, apart), apart, WantedPool(), Directory(services.engine),
            OutboxRelay(services.engine, services.bus, services.clock), Post(services.bus), Storage(services.clock),
            Doors(services.clock), log_state, sign_in, trail, second_factor,
            Inventory(services.engine, lanes, services.clock, services.credential_days),
        )  # fmt: skip

    async def close(self) -> None:
        """End live streams, note what failed last, and let the threads go."""
        await self.alarm_feed.close()
        await self.reading_feed.close()
        await self.inventory.close()
        await self.sign_in.failures.close()
        self.lanes.close()

    @property
    def rejects(self) -> RejectLog:
        return RejectLog(self.services.bus)

    @property
    def engine(self) -> Engine:
        return self.services.engine

    def author(self, who: Asking) -> Author:
        """Who writes, why and when, for the write log."""
        return Author(who.caller.principal.in_log, who.reason, self.services.clock.now_us())

    async def user_changed(self, user_id: str) -> None:
        """See `user_changed` of this module."""
        await user_changed(self.services, user_id)

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

    async def know_apart(self) -> None:
        """Know which devices' readings are kept apart, as the database has it. Raises Unavailable."""
        self.apart.learn(await self.read(all_orders, self.engine))

    def levels_changed(self) -> None:
        """A record is more, or less, sensitive than it was: live streams that see some and not others are judged anew."""
        self.alarm_feed.end_limited()
        self.reading_feed.end_limited()

    async def doors_told(self) -> None:
        """Let doors drop what they remember of tokens and places, and end connections whose token is good no more."""
        with contextlib.suppress(Exception):  # the bus is away: doors ask the database by themselves within seconds
            await self.services.bus.core_publish(subjects.DIRECTORY_CHANGED, b"")


async def _backend(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


Behind = Annotated[Backend, Depends(_backend)]
