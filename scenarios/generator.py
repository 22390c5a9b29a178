"""The load generator: sends each message at its due time, whatever was answered before (open loop).

Latency counts from the due time, so a stall of the platform shows in every message that was due during it. How late
the generator itself was is recorded apart; too late too often, and the run is INVALID.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from domain.errors import VitalgridError
from scenarios.books import Books
from scenarios.connections import Connections
from scenarios.generator_orders import Beat, Done, Order, ProbeTarget
from scenarios.measures import Latency, Lateness, Rates
from scenarios.model import Fault
from scenarios.schedule import Message, Schedule
from scenarios.sources import Sources

_YIELD_EVERY: Final = 16  # sends between looks at the acknowledgements, when everything is due at once
_PROBES_A_BEAT: Final = 8
_PROBE_NOTICE_S: Final = 0.1  # a probe is told of its reading this long before it is due
_DRAIN_S: Final = 30.0
_RECENT_BEATS: Final = 5


class Generator:
    """One run's sending side. `connect`, then `run(start_us, ...)`, then `done`."""

    def __init__(self, order: Order, sources: Sources, now_us: Callable[[], int]) -> None:
        self._order = order
        self._sources = sources
        self._now_us = now_us
        tls = order.doors_trust.context() if order.doors_trust is not None else None
        self.connections = Connections(order.mqtt_host, order.mqtt_port, sources.senders, tls)
        self._books = Books()  # of nothing, until the run begins
        self._durable = Latency("durable")
        self._lateness = Lateness(order.limits.late_ms, order.limits.late_share_max)
        self._rates = Rates()
        self._start_us = 0
        self._zero = 0.0  # perf_counter at the start of the run
        self._sent = 0
        self._acknowledged = 0
        self._waiting: set[asyncio.Future[Any]] = set()
        self._retransmitted = 0
        self._backfilled = 0
        self._stopping = False

    async def connect(self) -> float:
        """Connect every sender; returns how long that took, in seconds."""
        began = time.perf_counter()
        await self.connections.open_all()
        return time.perf_counter() - began

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._zero

    def stop(self) -> None:
        """Send nothing more; `run` comes to its end."""
        self._stopping = True

    async def run(self, start_us: int, tell: Callable[[Beat], None]) -> None:
        """Send everything that is due until the end, then wait for the acknowledgements still out."""
        self._start_us = start_us
        self._books = Books(base=start_us)
        self._zero = time.perf_counter() + (start_us - self._now_us()) / 1e6
        gc.collect()
        gc.freeze()  # what lives until the end need not be looked at again and again
        schedule = Schedule(lambda: self._sources.messages(start_us, self._order.duration_s), lambda: self.elapsed_s)
        schedule.start()
        beats = asyncio.create_task(self._beats(schedule, tell))
        faults = [asyncio.create_task(self._act(*fault)) for fault in self._sources.connection_faults()]
        try:
            await self._send_all(schedule)
            await self._drain()
        finally:
            schedule.stop()
            for task in (beats, *faults):
                task.cancel()
            await asyncio.gather(beats, *faults, return_exceptions=True)
            gc.unfreeze()
        if schedule.failure is not None:
            raise schedule.failure

    async def _send_all(self, schedule: Schedule) -> None:
        burst = 0
        while not schedule.is_over and not self._stopping:
            due_s = schedule.next_due_s()
            wait_s = 0.005 if due_s is None else due_s - self.elapsed_s
            if wait_s > 0:
                burst = 0
                await asyncio.sleep(min(wait_s, 0.25))
                continue
            self._send(schedule.take())
            burst += 1
            if burst % _YIELD_EVERY == 0:
                await asyncio.sleep(0)

    def _send(self, message: Message) -> None:
        late_us = (self.elapsed_s - message.due_s) * 1e6
        is_warmup = message.due_s < self._order.warmup_s
        self._lateness.record(late_us, at_s=message.due_s, warmup=is_warmup)
        due_us = self._start_us + round(message.due_s * 1e6)
        source = self._sources.senders[message.sender].source
        number = self._books.sent(source, message.keys, due_us=due_us, times_us=message.times_us)
        future = (
            self.connections.send_json(message.sender, message.body)
            if isinstance(message.body, list)
            else self.connections.send_frame(message.sender, message.body)
        )
        self._waiting.add(future)
        rows = len(message.keys)
        future.add_done_callback(partial(self._answered, number, message.due_s, rows))
        self._sent += rows
        self._rates.add("sent", message.due_s, rows)
        self._retransmitted += rows if message.retransmission else 0
        self._backfilled += message.backfilled

    def _answered(self, number: int, due_s: float, rows: int, future: asyncio.Future[Any]) -> None:
        self._waiting.discard(future)
        if future.cancelled() or future.exception() is not None:
            self._durable.errors += 1
            return
        self._books.acknowledged(number)
        self._acknowledged += rows
        self._rates.add("acknowledged", self.elapsed_s, rows)
        self._durable.record((self.elapsed_s - due_s) * 1e6, at_s=due_s, warmup=due_s < self._order.warmup_s)

    async def _drain(self) -> None:
        """Wait for what is still unacknowledged, within reason."""
        deadline = time.perf_counter() + _DRAIN_S
        while self._waiting and time.perf_counter() < deadline:
            await asyncio.wait(list(self._waiting), timeout=1.0)

    async def _beats(self, schedule: Schedule, tell: Callable[[Beat], None]) -> None:
        number = 0
        while True:
            number += 1
            await asyncio.sleep(max(0.0, self._zero + number - time.perf_counter()))
            tell(self._beat(schedule))

    def _beat(self, schedule: Schedule) -> Beat:
        recent = self._durable.series(last=_RECENT_BEATS)
        soon_s = self.elapsed_s + _PROBE_NOTICE_S
        probes = [
            ProbeTarget(*message.probe, self._start_us + round(message.due_s * 1e6))
            for message in schedule.due_within(soon_s, soon_s + 1.0, _PROBES_A_BEAT)
            if not message.backfilled and not message.retransmission
        ]
        return Beat(
            at_s=self.elapsed_s, sent=self._sent, acknowledged=self._acknowledged, waiting=len(self._waiting),
            connected=self.connections.connected, reconnects=self.connections.reconnects,
            late_share=self._lateness.share,
            durable_p50_ms=max((row[2] for row in recent), default=None),
            durable_p99_ms=max((row[3] for row in recent), default=None),
            probes=probes,
        )  # fmt: skip

    async def _act(self, fault: Fault, hospitals: list[str]) -> None:
        """A power failure or a cut drops the connections of its hospitals; afterwards all come back at once."""
        await asyncio.sleep(max(0.0, fault.at_s - self.elapsed_s))
        await self.connections.cut(hospitals)
        await asyncio.sleep(max(0.0, fault.at_s + fault.for_s - self.elapsed_s))
        await self.connections.storm(hospitals)

    def done(self) -> Done:
        """Close the books (to the order's path) and say how it went."""
        self._books.save(Path(self._order.books_path))
        return Done(
            durable=self._durable.encoded(), lateness=self._lateness.latency.encoded(), late=self._lateness.late,
            sends=self._lateness.sends, rates=self._rates.encoded(), connected=self.connections.connected,
            reconnects=self.connections.reconnects, errors=dict(self.connections.errors),
            retransmitted=self._retransmitted, backfilled=self._backfilled, elapsed_s=self.elapsed_s,
            truth=self._sources.truth(),
        )  # fmt: skip


async def close(generator: Generator) -> None:
    """Disconnect everybody, politely."""
    try:
        await generator.connections.close_all()
    except VitalgridError:
        return
