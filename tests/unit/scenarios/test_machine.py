"""What a run does to and learns from the machine: processes measured and killed, service times of hosts read."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from scenarios.faults import kill_a_host
from scenarios.host_figures import service_times_of
from scenarios.provenance import commit_of, this_machine
from scenarios.resources import Resources


@pytest.fixture
def process():
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield started
    started.kill()
    started.wait()


def test_a_host_is_killed_by_sigkill_and_named(process):
    assert kill_a_host({"host:host-1": process.pid, "api": 1}) == "host-1"
    assert process.wait(10) == -signal.SIGKILL


def test_no_host_known_is_no_host_killed():
    assert kill_a_host({"api": 1, "host:host-1": 0}) is None


def test_processes_are_summed_by_role_and_neighbours_are_told_apart(process):
    resources = Resources({"host:host-1": process.pid})
    for second in range(3):
        resources.sample(float(second))
    by_role = {row["role"]: row for row in resources.summary(0.0)}
    assert {"host", "runner", "others"} <= set(by_role)
    assert by_role["host"]["rss_max_bytes"] > 0
    assert len(by_role["host"]["series"]) == 3
    assert resources.cores_now() == pytest.approx(by_role["host"]["series"][-1][1], abs=1e-3)


def test_a_process_that_ended_is_left_out(process):
    resources = Resources({"doors": process.pid})
    resources.sample(0.0)
    process.kill()
    process.wait()
    resources.sample(1.0)
    rows = {row["role"]: row for row in resources.summary(0.0)}
    assert len(rows["doors"]["series"]) == 1


def test_service_times_keep_the_bins_that_hold_something():
    counts = [[0] * 26 for _ in range(20)]
    counts[3][5], counts[10][7] = 4, 2
    times = service_times_of("host-1", {"service_us_by_size": counts, "commit_us": [0, 1]})
    assert (times.readings_up_to[-1], times.service_us_up_to[-1]) == (1024, 128)
    assert times.counts[3][5] == 4
    assert times.counts[10] == [0, 0, 0, 0, 0, 0, 0, 2]


def test_the_machine_and_the_commit_are_named(tmp_path):
    assert this_machine().cpus >= 1
    assert this_machine().memory_bytes > 2**28
    assert commit_of(tmp_path) == "unknown"
