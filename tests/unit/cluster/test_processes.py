"""Child processes: kept running, and no burden to the loop that keeps them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from cluster.processes import READY_FD, ChildProcess
from runtime.keys import make_missing
from runtime.log_signing import LogSigner
from runtime.soft_keys import SoftKeys
from tests.running_platform import wait_until
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


Run = Callable[..., tuple[psutil.Process, Path]]


@pytest.fixture
def run_by_a_shell(tmp_path: Path) -> Iterator[Run]:
    """Runs a module of ours, as somebody at a shell who ends it once the module says that it is `ready`."""
    started = []

    def run(module: str, *arguments: object, ready: str, **environment: str) -> tuple[psutil.Process, Path]:
        said = tmp_path / "said"
        said.touch()  # the shell opens it a moment after it says the process' number
        line = f'"$@" >"{said}" 2>&1 & echo $!; read nothing'
        words = ["sh", "-c", line, "sh", sys.executable, "-m", module, *map(str, arguments)]
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environment}, pass_fds=[0]
        ) as shell:
            assert shell.stdout is not None
            started.append(psutil.Process(int(shell.stdout.readline())))
            wait_until(lambda: ready in said.read_text(), 60, said.read_text)
        return started[0], said  # the shell read the end of its input, and has ended

    yield run
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def is_running(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def test_a_child_whose_parent_is_gone_ends_and_says_why(run_by_a_shell: Run) -> None:
    child, said = run_by_a_shell(MODULE, ready="{}", **{READY_FD: "1"})
    wait_until(lambda: not is_running(child), 20)
    assert "the one that started it" in said.read_text()


@pytest.mark.clause("9.3e")
def test_a_witness_goes_on_when_the_shell_that_started_it_has_ended(run_by_a_shell: Run, tmp_path: Path) -> None:
    keys = SoftKeys(tmp_path / "keys")
    make_missing(keys, ["log-ed25519", "log-sm2"])
    signer = LogSigner(keys, "sz/log")
    arguments = ("--name", "w", "--listen", "127.0.0.1:0", "--data-dir", tmp_path / "witness")
    vkeys = [word for key in signer.public_keys() for word in ("--log-vkey", key.vkey)]
    witness, said = run_by_a_shell("cluster.cli", "witness", *arguments, *vkeys, ready="key:")
    seen = psutil.Process(witness.pid).ppid()
    with pytest.raises(psutil.TimeoutExpired):  # twice as long as a child takes to see that its parent is gone
        witness.wait(1.5)
    assert seen != os.getpid()
    witness.terminate()
    wait_until(lambda: not is_running(witness), 20, said.read_text)
