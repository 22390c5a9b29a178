"""Tasks that go on whatever fails, and ending tasks for certain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

logger = logging.getLogger(__name__)

_CANCEL_AGAIN_S: Final = 0.2


async def again_and_again(work: Callable[[], object], every_s: float, failed: str) -> None:
    """Do it in a thread, for ever, one run at a time and `every_s` after the last one's end.

    What fails is logged as `failed`, one kind of failure once in a row, and tried again. Ends when it is cancelled, and then
    the run that is under way goes on in its thread.
    """
    failure: type[Exception] | None = None
    while True:
        try:
            await asyncio.to_thread(work)
            failure = None
        except Exception as error:  # whatever it was: nobody would see that this has ended, and the next run may come further
            if type(error) is not failure:
                logger.exception("%s", failed)
            failure = type(error)
        await asyncio.sleep(every_s)


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
