"""Processes looked at from outside: one that works, one that sleeps, one that is stopped, one that has ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from runtime.process_look import is_running, look_at, wants_the_machine
from tests.waiting import until

START = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[START]:
    started: list[subprocess.Popen[bytes]] = []

    def run(script: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


WORKS = "import threading\nprint(flush=True)\nthreading.Thread(target=lambda: sum(range(10**12))).start()"
SLEEPS = "import time\nprint(flush=True)\ntime.sleep(600)"
HANGS = """
import ctypes, sys, threading, time
sys.setswitchinterval(0.0005)
for _ in range(8):
    threading.Thread(target=lambda: [time.sleep(0.01) for _ in range(100_000)], daemon=True).start()
library = ctypes.PyDLL(None)
print(flush=True)
library.usleep(600_000_000)
"""


@pytest.mark.parametrize(
    ("script", "wants"), [(WORKS, True), (SLEEPS, False), (HANGS, False)], ids=["works", "sleeps", "hangs"]
)
async def test_one_that_works_wants_the_machine_and_one_that_sleeps_or_hangs_does_not(
    start: START, script: str, *, wants: bool
) -> None:
    loop, process = asyncio.get_running_loop(), start(script)
    assert process.stdout is not None
    process.stdout.readline()
    looks = [(look_at(process.pid), loop.time())]
    await asyncio.sleep(0.5)  # what is measured takes time
    looks.append((look_at(process.pid), loop.time()))
    (before, began_s), (after, ended_s) = looks
    assert before is not None
    assert after is not None
    assert wants_the_machine(before, after, ended_s - began_s) is wants


async def test_one_that_is_stopped_is_seen_as_that(start: START) -> None:
    process = start("import time\ntime.sleep(600)")
    look = look_at(process.pid)
    assert look is not None
    assert not look.is_stopped
    os.kill(process.pid, signal.SIGSTOP)
    await until(lambda: (look := look_at(process.pid)) is not None and look.is_stopped)
    assert is_running(process.pid)


async def test_one_that_has_ended_is_gone_also_before_its_parent_has_looked(start: START) -> None:
    process = start("")
    await until(lambda: not is_running(process.pid))
    assert look_at(process.pid) is None
    process.wait()
    assert look_at(process.pid) is None
    assert not is_running(process.pid)
