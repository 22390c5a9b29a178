"""Wait on a condition with a deadline: the only way a test waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], object], deadline_s: float = 30.0) -> None:
    """Return once `condition()` is true; raises TimeoutError after `deadline_s`."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 (the condition is a plain function of the code under test)
            await asyncio.sleep(0.005)


async def eventually(attempt: Callable[[], Awaitable[object]], deadline_s: float = 30.0) -> None:
    """As `until`, of what has to be asked for: once the answer is true."""
    async with asyncio.timeout(deadline_s):
        while not await attempt():  # noqa: ASYNC110 (what is asked tells)
            await asyncio.sleep(0.02)
