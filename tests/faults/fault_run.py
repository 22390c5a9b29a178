"""One run: load, the faults of a plan, recovery, then the history checker. One platform serves many runs in a row.

Recovered is when every hospital's gateway has a reading acknowledged that it sent after the fault was over, REST shows
it as the latest, and the platform calls itself ready: the way from a sender to a screen is whole again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import httpx
import msgspec
import numpy as np

from domain.errors import Unavailable
from domain.fleet_manifest import FleetRegistered
from domain.instants import parse_rfc3339
from runtime.clock import SystemClock
from runtime.tasks import end
from tests.faults.checker import Invariant, Verdict, check
from tests.faults.history import History
from tests.faults.log_writes import LogWrites
from tests.faults.observing import observe, positions
from tests.faults.orders import ORDERS
from tests.faults.schedule import ORDER, Fault, Plan
from tests.faults.senders import HOSPITALS, Cast, Load, fleet
from tests.faults.stand import NODE, Stand
from tests.faults.tcp_proxy import CONDITIONS
from tests.running_platform import wait_until

_LOOK_S: Final = 0.2
_SETTLING: Final = (  # what time may mend: the last readings are answered from the hosts before they are in the lake
    Invariant.LOST, Invariant.UNANSWERED, Invariant.ANSWERED_WRONG, Invariant.UNTOLD, Invariant.UNSHOWN,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a run loads, and waits for what the platform owes. `told_within_s`: of recovery, for live alarms."""

    load_s: float = 9.0
    recovery_s: float = 90.0
    told_within_s: float = 20.0
    settle_s: float = 45.0


@dataclass(slots=True)
class RunResult:
    """What became of one run. `recovered_s`: seconds from a kill, or from the end of any other fault,
    until the whole way worked again."""

    plan: Plan
    verdict: Verdict | None = None
    recovered_s: dict[str, float] = field(default_factory=dict)
    reconnects: int = 0
    problem: str = ""
    refusals: list[str] = field(default_factory=list)
    logged: int = 0  # writes that were answered
    log_problems: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        is_served = not self.problem and not self.refusals and not self.log_problems
        return is_served and self.verdict is not None and self.verdict.holds

    def __str__(self) -> str:
        lines = [str(self.plan)]
        if self.verdict is not None:
            book = self.verdict.ledger
            recovered = ", ".join(f"{kind} {s:.1f} s" for kind, s in self.recovered_s.items())
            lines.append(
                f"  sent {book.sent}, acknowledged {book.acknowledged}, stored {book.stored}, lost {book.lost}, doubled "
                f"{book.doubled}, never sent {book.unexpected}; reconnects {self.reconnects}; recovered after: {recovered}"
            )
            lines += [f"  BROKEN {violation}" for violation in self.verdict.violations]
        lines += [f"  BROKEN {problem}" for problem in self.log_problems]
        lines += [f"  REFUSED {refusal}" for refusal in self.refusals[:3]]
        if self.problem:
            lines.append(f"  PROBLEM {self.problem}")
        if not self.holds:
            lines.append(f"  repeat: make faults RUNS=1 SEED={self.plan.seed}")
        return "\n".join(lines)


class FaultBench:
    """A started stand with its fleet registered; `play` plans on it one after the other."""

    def __init__(self, stand: Stand, pace: Pace | None = None) -> None:
        self.stand = stand
        self._pace = pace or Pace()
        self.clock = SystemClock()
        self.cast: Cast | None = None
        self.history: History | None = None  # of the last run, as is `load`
        self.load: Load | None = None
        self._last_base = 0

    async def start(self) -> None:
        await self.stand.start()
        if self.cast is None:
            self.cast = await asyncio.to_thread(self._register)

    def _register(self) -> Cast:
        with self.stand.running.http() as http:
            answer = http.post("/fleets", content=msgspec.json.encode(fleet()), headers={"Content-Type": "application/json"})
            answer.raise_for_status()
        return Cast.of(msgspec.json.decode(answer.content, type=FleetRegistered).hospitals)

    async def play(self, plan: Plan) -> RunResult:
        """One run. Never raises for what the platform does: that is in the result."""
        return await self.play_story(plan, lambda load, result: self._disturb(plan, load, result))

    async def play_story(self, plan: Plan, story: Callable[[Load, RunResult], Awaitable[None]]) -> RunResult:
        """As `play`, with anything in place of the plan's faults. `story` returns once what it broke works again."""
        assert self.cast is not None, "start comes first"
        since, load = await positions(self.stand), self.new_load(plan.seed)
        history = load.history
        result = RunResult(plan)
        writes = LogWrites(self.stand, history.base)
        writing = asyncio.create_task(writes.run(), name="write")
        try:
            await load.start(self.stand.door_port)
            await story(load, result)
            await self._settle(load, since, result)
            await end(writing)
            result.logged = len(writes.answered)
            if self.stand.is_sound:
                result.log_problems = await writes.check(self._pace.settle_s)
        except* (AssertionError, TimeoutError, OSError, Unavailable, httpx.HTTPError) as group:
            result.problem = "; ".join(f"{type(error).__name__}: {error}" for error in _leaves(group))
        finally:
            await end(writing)
            await load.close()
            result.reconnects, result.refusals = history.reconnects, history.refusals
        return result

    def new_load(self, seed: int) -> Load:
        """Senders that have not begun, and their empty history."""
        assert self.cast is not None, "start comes first"
        self._last_base = max(self.clock.now_us(), self._last_base + 1)
        self.history = History(self._last_base)
        self.load = Load(self.cast, self.history, self.clock.now_us, np.random.SeedSequence([seed, 7]))
        return self.load

    # ---- faults

    async def _disturb(self, plan: Plan, load: Load, result: RunResult) -> None:
        """The plan on the run's clock; returns once everything it broke works again."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        jobs: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            *((fault.at_s, lambda fault=fault: self._do(fault, load, result)) for fault in plan.faults),  # type: ignore[misc]
            *((at_s, lambda number=number: _now(load.cross, number)) for at_s, number in plan.crossings),  # type: ignore[misc]
            (self._pace.load_s, lambda: _now(lambda: None)),
        ]
        async with asyncio.TaskGroup() as group:
            for at_s, job in jobs:
                group.create_task(_at(began_s + at_s, job))
        await self.recovered(load, self.clock.now_us())

    async def _do(self, fault: Fault, load: Load, result: RunResult) -> None:
        over_us = self.clock.now_us()  # of a kill: what follows is the platform's own
        if fault.way in CONDITIONS:
            link = self.stand.links[fault.target]
            link.disturb(fault.way)
            await asyncio.sleep(fault.for_s)
            link.heal()
        elif fault.way == ORDER:
            await ORDERS[fault.target](self.stand, fault.pick)
        else:
            await self.hurt(fault)
        if fault.way != "kill":
            over_us = self.clock.now_us()
        await self.recovered(load, over_us)
        result.recovered_s[fault.kind] = (self.clock.now_us() - over_us) / 1e6

    async def hurt(self, fault: Fault) -> None:
        """Kill or stop the process that a fault names; returns once a killed one is replaced."""
        pids = self.stand.pids(fault.target)
        if not pids:  # another fault has it down already
            return
        pid = pids[int(fault.pick * len(pids))]
        if fault.way == "stop":
            await self._stop(pid, fault.for_s)
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if fault.target == NODE and self.stand.raylets is not None:
            self.stand.raylets.nodes.remove(pid)
            return  # nobody replaces a machine: the others carry on
        if fault.target == "up":
            await asyncio.to_thread(self.stand.running.process.wait)
            await self.stand.start()
        await asyncio.to_thread(wait_until, lambda: self._is_replaced(fault.target, pid), self._pace.recovery_s)

    @staticmethod
    async def _stop(pid: int, for_s: float) -> None:
        """Let a process stand still. Another fault may kill it meanwhile: then that one waits for what replaces it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(for_s)
            os.kill(pid, signal.SIGCONT)

    def _is_replaced(self, role: str, pid: int) -> bool:
        """What still works without a process (hosts without the raylet, say) says nothing of its return."""
        pids = self.stand.pids(role)
        return bool(pids) and pid not in pids

    # ---- recovery

    async def recovered(self, load: Load, over_us: int) -> None:
        """Return once the whole way works again for what is sent after `over_us`."""
        deadline_s = asyncio.get_running_loop().time() + self._pace.recovery_s
        headers = {"X-Reason": "fault run"}
        async with httpx.AsyncClient(timeout=2.0, trust_env=False, headers=headers) as http:
            while not await self._is_whole(http, load, over_us):
                if asyncio.get_running_loop().time() > deadline_s:
                    raise TimeoutError(f"not recovered within {self._pace.recovery_s:g} s: {await self._why_not(http)}")
                await asyncio.sleep(_LOOK_S)

    async def _is_whole(self, http: httpx.AsyncClient, load: Load, over_us: int) -> bool:
        if any(sender.last_acknowledged_us < over_us for sender in load.gateways):
            return False
        try:
            ready = await self._get(http, "/ready")
        except (httpx.HTTPError, Unavailable):
            return False
        return ready.status_code == 200 and await self.is_shown(http, over_us)

    async def is_shown(self, http: httpx.AsyncClient, since_us: int) -> bool:
        """Whether REST shows readings of every hospital that were taken since."""
        try:
            answers = [await self._get(http, "/readings/latest", hospital=name, limit=100) for name in HOSPITALS]
            newest = [
                max((parse_rfc3339(row["time"]) for row in a.json()["items"]), default=0)
                for a in answers
                if a.status_code == 200
            ]
        except (httpx.HTTPError, Unavailable):
            return False
        return len(newest) == len(HOSPITALS) and min(newest) >= since_us

    async def _get(self, http: httpx.AsyncClient, path: str, **params: str | int) -> httpx.Response:
        running = self.stand.running
        headers = {"Authorization": f"Bearer {running.token}"}
        return await http.get(f"{running.connection.api_url}/api/v1{path}", params=params, headers=headers)

    async def _why_not(self, http: httpx.AsyncClient) -> str:
        try:
            return (await self._get(http, "/ready")).text
        except (httpx.HTTPError, Unavailable) as error:
            return f"{type(error).__name__} {error}"

    async def _settle(self, load: Load, since: dict[str, int], result: RunResult) -> None:
        """Let what is under way arrive, then check; what time may mend is looked at until the deadline."""
        loop = asyncio.get_running_loop()
        tell_by_us = self.clock.now_us() + round(self._pace.told_within_s * 1e6)
        deadline_s = loop.time() + self._pace.settle_s
        await self._alarms_told(load, tell_by_us, since)
        load.rest()
        while load.history.waiting and loop.time() < deadline_s:  # noqa: ASYNC110 (a book is looked at, by the clock)
            await asyncio.sleep(_LOOK_S)
        result.verdict = await self.verdict_of(load.history, since, tell_by_us, deadline_s)

    async def verdict_of(self, history: History, since: dict[str, int], tell_by_us: int, deadline_s: float) -> Verdict:
        """The checker's word on a history; what time may mend is looked at until the deadline on the loop's clock."""
        while True:
            verdict = check(history, await observe(self.stand, history, since), tell_by_us=tell_by_us)
            broken = {violation.invariant for violation in verdict.violations}
            if not broken or asyncio.get_running_loop().time() > deadline_s or not broken <= set(_SETTLING):
                return verdict
            await asyncio.sleep(2 * _LOOK_S)

    async def _alarms_told(self, load: Load, tell_by_us: int, since: dict[str, int]) -> None:
        """Hold every crossing until it is told or its time is up."""
        while self.clock.now_us() < tell_by_us:
            observed = await observe(self.stand, load.history, since)
            if not check(load.history, observed, tell_by_us=tell_by_us).count(Invariant.UNTOLD):
                return
            await asyncio.sleep(_LOOK_S)


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _at(due_s: float, job: Callable[[], Awaitable[None]]) -> None:
    """When its time has come on the run's clock."""
    await asyncio.sleep(max(due_s - asyncio.get_running_loop().time(), 0.0))
    await job()


async def _now(act: Callable[..., object], *arguments: object) -> None:
    act(*arguments)
