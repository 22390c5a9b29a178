"""Where blocking work of the API runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from runtime.hashing_lane import HashingLane
from runtime.priority import thread_stays_behind

P = ParamSpec("P")
R = TypeVar("R")
_SQL_THREADS: Final = 4
_CODEC_THREADS: Final = 2
_LIGHT_QUERIES: Final = 4
_HOST_QUERIES: Final = 32


class Lanes:
    """Where blocking work runs, so that no kind of it can starve another or the event loop.

    SQL has its own threads, hashing of passwords one (`hashing`), and judging new ones another (`estimating`): who
    chooses a password holds up nobody who signs in, and the estimator, which is not made for threads, runs in one. To list
    the rights of whoever has dozens of grants takes seconds: one thread, behind all others. Of questions to the readings a
    few light ones run at once here, and many that hosts answer alone; heavy ones (searches, aggregates of a region) have a
    queue and a process of their own (`runtime.large_questions`).
    """

    def __init__(self) -> None:
        self._sql = ThreadPoolExecutor(_SQL_THREADS, "api-sql")
        self._codec = ThreadPoolExecutor(_CODEC_THREADS, "api-codec")
        self._rights = ThreadPoolExecutor(1, "api-rights", initializer=thread_stays_behind)
        self.hashing = HashingLane()
        self.estimating = HashingLane(name="estimating")
        self._light = asyncio.Semaphore(_LIGHT_QUERIES)
        self._of_hosts = asyncio.Semaphore(_HOST_QUERIES)

    async def sql(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run blocking database work in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._sql, lambda: work(*args, **kwargs))

    async def codec(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run encoding or decoding of something large in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._codec, lambda: work(*args, **kwargs))

    async def rights(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Find out what somebody may do in effect."""
        return await asyncio.get_running_loop().run_in_executor(self._rights, lambda: work(*args, **kwargs))

    async def light(self, question: Awaitable[R]) -> R:
        """Await a small question to the readings."""
        async with self._light:
            return await question

    async def of_hosts(self, question: Awaitable[R]) -> R:
        """Await a question that hosts answer alone: it waits for none that reads the lake."""
        async with self._of_hosts:
            return await question

    def close(self) -> None:
        self.hashing.close()
        self.estimating.close()
        self._sql.shutdown(wait=False, cancel_futures=True)
        self._codec.shutdown(wait=False, cancel_futures=True)
        self._rights.shutdown(wait=False, cancel_futures=True)
