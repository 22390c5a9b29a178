"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any, Final

_CANCEL_AGAIN_S: Final = 0.2


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel `tasks` until each has ended; None is skipped, and what they raised is not raised here.

    One cancel is not enough: `asyncio.wait_for` of Python 3.11, deep in a client library, swallows a cancel that
    comes in the same turn of the loop as the answer it waits for.
    """
    pending = {task for task in tasks if task is not None}
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)
        for task in done:
            if not task.cancelled():
                task.exception()  # seen: asyncio shall not report it as forgotten
