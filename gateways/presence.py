"""Presence: `online` and `offline` of devices, and what was noticed of them, in the stream, in order for each device.

Events wait here while the stream does not answer: a few workers retry, each for its own share of the devices, so that
an `offline` never overtakes the `online` before it. They are kept in memory only: a door that dies says nothing, and
the shards notice the silence by staleness.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from domain.errors import Unavailable
from domain.messages import DeviceEvent, SecurityNotice
from domain.ports import Clock, Intake, Sender

logger = logging.getLogger(__name__)

_WORKERS: Final = 8
_RETRY_S: Final = 1.0


class Presence:
    """Tells the stream who came and went. `start` before the first event, `close` after the last."""

    def __init__(self, intake: Intake, clock: Clock) -> None:
        self._intake = intake
        self._clock = clock
        self._queues: list[asyncio.Queue[tuple[DeviceEvent | SecurityNotice, int]]] = [asyncio.Queue() for _ in range(_WORKERS)]
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._workers = [asyncio.create_task(self._work(queue)) for queue in self._queues]

    def tell(self, sender: Sender, event: str, detail: str | None = None) -> None:
        """Put an event on its way; returns at once."""
        happened = DeviceEvent(sender.hospital_id, sender.handle, event, self._clock.now_us(), detail)
        self._queues[sender.handle % _WORKERS].put_nowait((happened, sender.shard))

    def notify(self, sender: Sender, notice: SecurityNotice) -> None:
        """Put a notice about a sender on its way; returns at once."""
        self._queues[sender.handle % _WORKERS].put_nowait((notice, sender.shard))

    async def close(self, deadline_s: float = 5.0) -> None:
        """Wait until all events are stored, at most `deadline_s`; what is left is dropped, and the log says how many."""
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.gather(*(queue.join() for queue in self._queues))
        except TimeoutError:
            left = sum(queue.qsize() for queue in self._queues)
            logger.warning("the door closed before all device events were stored", extra={"events": left})
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self, queue: asyncio.Queue[tuple[DeviceEvent | SecurityNotice, int]]) -> None:
        while True:
            event, shard = await queue.get()
            while True:
                try:
                    await self._intake.tell_event(event, shard)
                    break
                except Unavailable:
                    await asyncio.sleep(_RETRY_S)
            queue.task_done()
