"""Child processes: kept running, and no burden to the loop that keeps them."""

from __future__ import annotations

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster.processes import ChildProcess
from tests.waiting import until

MODULE = "tests.unit.cluster.idle_child"


async def test_a_child_that_was_killed_is_started_again_and_takes_none_of_the_loops_threads(tmp_path: Path) -> None:
    """The loop has six threads on two cores: with a child in each nothing that blocks would ever be done."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    child = ChildProcess(MODULE, {}, tmp_path / "child.log")
    await child.start()
    try:
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(os.getpid) == os.getpid()
        first = child.pid
        assert first
        os.kill(first, signal.SIGKILL)
        await until(lambda: child.restarts == 1 and child.pid not in {0, first})
    finally:
        await child.stop()
