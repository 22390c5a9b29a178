"""What tests and benchmarks start does not outlive them."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from runtime.process_look import is_running
from tests.running_platform import wait_until

STARTER = """
import subprocess, sys, time
from tests.running_platform import _end_with_us
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleep, preexec_fn=_end_with_us, start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("end", [psutil.Process.terminate, psutil.Process.kill])
def test_a_platform_ends_when_whoever_started_it_is_ended(end) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    assert is_running(pid)
    end(psutil.Process(starter.pid))
    starter.wait()
    starter.stdout.close()
    wait_until(lambda: not is_running(pid), 10)
