"""The platform's own state: what `/ready` checks, and what Prometheus is shown of the hosts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from api.doors import watch_doors
from api.services import Backend
from api.telemetry import Sample, Telemetry
from domain import subjects
from domain.alarms import OPEN_STATES, Priority
from domain.errors import VitalgridError
from domain.messages import LogState, StorageLevel
from domain.permissions import everywhere
from runtime.sql.alarms import count_alarms
from runtime.sql.outbox import waiting

MAX_LAG_MESSAGES: Final = 20_000
MAX_LAG_S: Final = 10.0
_DEADLINE_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold before the platform is called ready."""

    name: str
    ok: bool
    detail: str


async def check_all(backend: Backend) -> list[Check]:
    """All checks, at once; each has a deadline."""
    checks = {
        "bus": _bus, "database": _database, "lake": _lake, "shards": _shards, "lag": _lag, "storage": _storage,
        "access-log": _access_log,
    }  # fmt: skip
    return list(await asyncio.gather(*(_checked(name, check, backend) for name, check in checks.items())))


async def _checked(name: str, check: Callable[[Backend], Awaitable[tuple[bool, str]]], backend: Backend) -> Check:
    try:
        async with asyncio.timeout(_DEADLINE_S):
            ok, detail = await check(backend)
    except (VitalgridError, SQLAlchemyError, OSError) as error:
        return Check(name, ok=False, detail=f"{type(error).__name__}: does not answer")
    except TimeoutError:
        return Check(name, ok=False, detail=f"no answer within {_DEADLINE_S:g} s")
    return Check(name, ok, detail)


async def _bus(backend: Backend) -> tuple[bool, str]:
    state = await backend.services.bus.stream_state(subjects.READINGS_STREAM)
    return True, f"stream holds {state.messages} messages, {state.size_bytes} bytes"


async def _database(backend: Backend) -> tuple[bool, str]:
    await backend.read(_select_one, backend.services.engine)
    return True, "answers"


def _select_one(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))


async def _lake(backend: Backend) -> tuple[bool, str]:
    view = await asyncio.to_thread(backend.services.lake.positions)
    return True, f"version {view.version}"


async def _shards(backend: Backend) -> tuple[bool, str]:
    missing = backend.hosts.missing()
    hosts = len(backend.hosts.alive())
    stuck = sorted(set(backend.hosts.high_water().silent_shards) - set(missing))
    at_a_standstill = f"; held, and at no time yet: {stuck}" if stuck else ""
    return not missing and not stuck, f"{hosts} hosts; shards held by nobody: {missing or 'none'}{at_a_standstill}"


async def _lag(backend: Backend) -> tuple[bool, str]:
    behind = max((held.lag for held in backend.hosts.held().values()), default=0)
    age_s = _age_s(backend)
    ok = behind <= MAX_LAG_MESSAGES and (age_s is None or age_s <= MAX_LAG_S)
    return ok, f"{behind} messages behind, stream time {'not known' if age_s is None else f'{age_s:.1f} s old'}"


async def _storage(backend: Backend) -> tuple[bool, str]:
    wrong = [state.says for state in backend.storage.troubled()]
    wrong += [
        f"{beat.host} takes no more of the stream: the lake takes no rows"
        for beat in backend.hosts.alive()
        if beat.full_since_us
    ]
    return not wrong, "; ".join(wrong) or "there is room in every place"


async def _access_log(backend: Backend) -> tuple[bool, str]:
    """Not ready while accesses do not reach it, or it does not grow: protected records are not shown then.

    A witness that is away is only told of.
    """
    closed = backend.trail.why_closed()
    if closed is not None:
        return False, f"protected records are not shown: {closed}"
    waiting = await asyncio.to_thread(backend.services.accesses.count)
    state = backend.log_state.newest()
    if state is None:
        return False, f"not heard of yet; {waiting} accesses wait"
    behind = f"; {state.unwitnessed}" if state.unwitnessed else ""
    witnessed = "by no witness" if state.cosigned is None else f"{state.cosigned} of them by every witness"
    return True, f"{state.size} entries signed, {witnessed}{behind}; {waiting} accesses wait"


async def refresh_figures(backend: Backend) -> None:
    """Bring the figures that have to be asked for up to date; what does not answer in time reads NaN."""
    await asyncio.gather(_alarms_open(backend), _rejects(backend))


async def _alarms_open(backend: Backend) -> None:
    figures = backend.telemetry
    try:
        async with asyncio.timeout(_DEADLINE_S):
            rows = await backend.read(count_alarms, backend.engine, reach=everywhere(backend.services.region_id))
            figures.outbox_waiting.set(await backend.read(waiting, backend.engine))
    except (SQLAlchemyError, TimeoutError):
        figures.outbox_waiting.set(math.nan)
        return
    for priority in Priority:
        still_open = sum(row["count"] for row in rows if row["priority"] == priority and row["state"] in OPEN_STATES)
        figures.alarms_open.labels(priority.name.lower()).set(still_open)


async def _rejects(backend: Backend) -> None:
    try:
        async with asyncio.timeout(_DEADLINE_S):
            state = await backend.services.bus.stream_state(subjects.REJECTS_STREAM)
    except (VitalgridError, TimeoutError):
        backend.telemetry.rejects_kept.set(math.nan)
        return
    backend.telemetry.rejects_kept.set(state.messages)


def _age_s(backend: Backend) -> float | None:
    reached = backend.hosts.high_water().time_us
    return None if reached is None else (backend.services.clock.now_us() - reached) / 1e6


def watch_platform(backend: Backend) -> None:
    """Let Prometheus see what hosts and doors say."""
    hosts, telemetry = backend.hosts, backend.telemetry

    def by_shard(field: str) -> Callable[[], list[Sample]]:
        return lambda: [((str(shard),), float(getattr(held, field))) for shard, held in sorted(hosts.held().items())]

    def stream_age() -> list[Sample]:
        age_s = _age_s(backend)
        return [] if age_s is None else [((), age_s)]

    def room() -> list[Sample]:
        return [((state.name,), float(state.free_bytes)) for state in backend.storage.places()]

    def troubled() -> list[Sample]:
        return [((state.name,), float(state.level is not StorageLevel.OK)) for state in backend.storage.places()]

    watch = telemetry.watch
    watch("vitalgrid_storage_free_bytes", "Free on the disk of a place.", ("place",), room)
    watch("vitalgrid_storage_troubled", "1 where a disk runs full or fails: see /health.", ("place",), troubled)
    watch("vitalgrid_shard_lag_messages", "Messages of the stream not yet worked through.", ("shard",), by_shard("lag"))
    watch("vitalgrid_shard_devices", "Devices of a shard.", ("shard",), by_shard("devices"))
    watch("vitalgrid_shard_channels", "Channels of a shard.", ("shard",), by_shard("channels"))
    watch("vitalgrid_shard_applied_sequence", "Stream sequence worked through.", ("shard",), by_shard("applied"))
    watch("vitalgrid_shard_committed_sequence", "Stream sequence in the lake.", ("shard",), by_shard("committed"))
    watch("vitalgrid_hosts_alive", "Hosts heard of lately.", (), lambda: [((), float(len(hosts.alive())))])
    watch("vitalgrid_shards_missing", "Shards held by nobody.", (), lambda: [((), float(len(hosts.missing())))])
    watch("vitalgrid_stream_age_seconds", "Age of the newest stream time all shards have reached.", (), stream_age)
    _watch_log(backend, telemetry)
    watch_doors(backend.doors, telemetry)


def _watch_log(backend: Backend, telemetry: Telemetry) -> None:
    def of(figure: Callable[[LogState], float]) -> Callable[[], list[Sample]]:
        return lambda: [] if (state := backend.log_state.newest()) is None else [((), figure(state))]

    def unwitnessed() -> list[Sample]:
        state = backend.log_state.newest()
        return [] if state is None or state.cosigned is None else [((), float(max(state.size - state.cosigned, 0)))]

    def troubled() -> list[Sample]:
        state = backend.log_state.newest()
        return [((), float(state is None or state.problem is not None))]

    watch = telemetry.watch
    watch("vitalgrid_log_entries", "Entries of the access log that are signed.", (), of(lambda state: state.size))
    watch("vitalgrid_log_waiting", "Records that are not in the access log yet.", (), of(lambda state: state.waiting))
    watch("vitalgrid_log_unwitnessed", "Signed entries that some witness has not signed.", (), unwitnessed)
    watch("vitalgrid_log_troubled", "1 while the access log does not grow, or is not heard of.", (), troubled)
