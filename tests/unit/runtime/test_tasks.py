"""A task that swallows a cancel, as Python 3.11's `wait_for` may, is ended all the same."""

from __future__ import annotations

import asyncio

from runtime.tasks import end


async def test_a_task_that_swallows_one_cancel_is_ended() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > 1:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end(task, None)
    assert task.cancelled()
    assert swallowed == 2


async def test_what_a_task_raised_is_not_raised_by_ending_it() -> None:
    async def broken() -> None:
        raise ValueError("of its own")

    task = asyncio.create_task(broken())
    await asyncio.sleep(0)
    await end(task)
    assert isinstance(task.exception(), ValueError)
