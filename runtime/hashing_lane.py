"""Where passwords are hashed, or estimated: one thread, a short queue; a flood takes what is left of one processor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from domain.errors import Busy
from runtime.priority import thread_stays_behind

P = ParamSpec("P")
R = TypeVar("R")
MOST_WAITING: Final = 8  # some two seconds at the default cost


class HashingLane:
    """Runs slow work on passwords in a thread of its own; what does not fit its queue is refused before it costs anything."""

    def __init__(self, most_waiting: int = MOST_WAITING, name: str = "hashing") -> None:
        self._thread = ThreadPoolExecutor(1, name, initializer=thread_stays_behind)
        self._most = 1 + most_waiting
        self._held = 0

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `work`, after all that came before it. Raises Busy at once when the queue is full."""
        self.check_room()
        self._held += 1
        working = self._thread.submit(work, *args, **kwargs)
        # counted until it has run, also when nobody waits for it any more; a callback runs in the thread
        loop = asyncio.get_running_loop()
        working.add_done_callback(lambda _: loop.call_soon_threadsafe(self._let_go))
        return await asyncio.wrap_future(working)

    def check_room(self) -> None:
        """Raises Busy when the queue is full: to be asked before anything else is done for what will be run."""
        if self._held >= self._most:
            raise Busy(f"{self._held} passwords wait to be checked: try again in some seconds")

    def _let_go(self) -> None:
        self._held -= 1

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
