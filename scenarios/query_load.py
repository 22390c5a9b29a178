"""Questions asked while the platform is under load, open loop: each at its due time, whatever the last one took.

7.1a simple: clear conditions, few records. 7.1b complex: part of a name over the region's readings; aggregates over
a fleet. 7.1c batch: several complex queries at once, counted until the last answer is in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Final

from domain.errors import VitalgridError
from scenarios.measures import Latency
from scenarios.model import Queries
from scenarios.rest import Rest

_MAX_WAITING: Final = 50  # a platform that answers nothing must not fill this machine with open requests
_RANGE_S: Final = 300
_SEARCH_WORDS: Final = ("icu", "mon-0001", "gen-02", "vent", "pump-002")  # parts of device and ward names


@dataclass(frozen=True, slots=True)
class Place:
    """A device to ask about, and where it stands."""

    hospital_id: str
    ward_id: str
    device_id: str
    metric: str


class QueryLoad:
    """`run` until cancelled. One latency for each kind; `samples` names what was asked, for the report."""

    def __init__(self, rest: Rest, rates: Queries, places: Sequence[Place], now_us: Callable[[], int]) -> None:
        self._rest = rest
        self._rates = rates
        self._places = cycle(places)
        self._words = cycle(_SEARCH_WORDS)
        self._metrics = cycle(("heart_rate", "room_temp", "spo2"))
        self._now_us = now_us
        self.simple = Latency("query_simple", "queries")
        self.complex = Latency("query_complex", "queries")
        self.batch = Latency("query_batch", "queries")
        self.failures: dict[str, int] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._simple_turn = cycle((self._latest, self._range))
        self._complex_turn = cycle((self._search, self._aggregate))

    @property
    def latencies(self) -> list[Latency]:
        return [self.simple, self.complex, self.batch]

    def figures(self) -> dict[str, float | None]:
        asked = sum(latency.count + latency.errors for latency in self.latencies)
        return {"query_errors": sum(latency.errors for latency in self.latencies) if asked else None}

    async def run(self, zero: float, warmup_s: float, until_s: float) -> None:
        """Ask from `zero` (perf_counter) until `until_s` seconds later, then wait for the answers still out."""
        plans = (
            (self.simple, self._rates.simple_per_s, self._next_simple),
            (self.complex, self._rates.complex_per_s, self._next_complex),
            (self.batch, self._rates.batch_per_s, self._several),
        )
        await asyncio.gather(*(self._ask_at_rate(*plan, zero, warmup_s, until_s) for plan in plans if plan[1] > 0))
        if self._asking:
            await asyncio.wait(self._asking, timeout=15)

    async def _ask_at_rate(
        self, latency: Latency, rate: float, ask: Callable[[], Awaitable[Any]], zero: float, warmup_s: float, until_s: float
    ) -> None:
        number = 0
        while (due_s := (number + 0.5) / rate) < until_s:
            number += 1
            await asyncio.sleep(max(0.0, zero + due_s - time.perf_counter()))
            if len(self._asking) >= _MAX_WAITING:
                latency.errors += 1
                self._failed("not asked: too many unanswered")
                continue
            task = asyncio.create_task(self._ask(latency, ask, zero, due_s, warmup_s))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask(
        self, latency: Latency, ask: Callable[[], Awaitable[Any]], zero: float, due_s: float, warmup_s: float
    ) -> None:
        try:
            await ask()
        except VitalgridError as error:
            latency.errors += 1
            self._failed(str(error)[:200])
            return
        took_us = (time.perf_counter() - zero - due_s) * 1e6
        latency.record(took_us, at_s=due_s, warmup=due_s < warmup_s)

    def _failed(self, sentence: str) -> None:
        self.failures[sentence] = self.failures.get(sentence, 0) + 1

    def _recent(self, seconds: float) -> tuple[int, int]:
        now = self._now_us()
        return now - round(seconds * 1e6), now

    async def _next_simple(self) -> Any:
        return await next(self._simple_turn)()

    async def _next_complex(self) -> Any:
        return await next(self._complex_turn)()

    async def _latest(self) -> Any:
        place = next(self._places)
        return await self._rest.latest_of_ward(place.hospital_id, place.ward_id)

    async def _range(self) -> Any:
        place = next(self._places)
        return await self._rest.device_range(place.hospital_id, place.device_id, place.metric, *self._recent(_RANGE_S))

    async def _search(self) -> Any:
        return await self._rest.search(next(self._words), *self._recent(_RANGE_S))

    async def _aggregate(self) -> Any:
        return await self._rest.fleet_aggregate(next(self._metrics), *self._recent(3600))

    async def _several(self) -> Any:
        return await asyncio.gather(self._search(), self._aggregate(), self._search(), self._range())
