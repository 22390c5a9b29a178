"""What the platform's processes use, once a second, by role: CPU in cores, resident memory in bytes.

Beside the platform: the generator, the runner itself, and `others`, which is everything else on this machine. A run
whose neighbours took the processor is told from one whose platform was slow.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

import psutil

BESIDE: Final = ("generator", "runner", "others")  # on this machine, but not of the platform


class Resources:
    """Samples the processes named in `pids` and their children; a process that ends is left out from then on."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._roles: dict[int, str] = {}
        self._processes: dict[int, psutil.Process] = {}
        self._samples: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
        self._known: dict[str, int] = {}
        self._machine = _busy_s()
        self.follow(pids)

    def follow(self, pids: Mapping[str, int]) -> None:
        """Learn of processes (again): named ones keep their role, other descendants of the supervisor are its own.

        Looks through all processes of the machine only when `pids` changed.
        """
        if dict(pids) == self._known:
            return
        self._known = dict(pids)
        named = {pid: role.partition(":")[0] for role, pid in pids.items() if pid} | {os.getpid(): "runner"}
        for pid, role in named.items():
            with contextlib.suppress(psutil.Error):
                self._add(psutil.Process(pid), role)
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(pids.get("supervisor", 0)).children(recursive=True):
                self._add(process, named.get(process.pid, _role_of(process)))

    def _add(self, process: psutil.Process, role: str) -> None:
        self._roles[process.pid] = role
        if process.pid not in self._processes:
            self._processes[process.pid] = process
            with contextlib.suppress(psutil.Error):
                process.cpu_percent()  # the first call only sets the mark

    def sample(self, at_s: float) -> None:
        """Take one sample of everything, summed by role."""
        cores: dict[str, float] = defaultdict(float)
        rss: dict[str, int] = defaultdict(int)
        for pid, process in list(self._processes.items()):
            try:
                with process.oneshot():
                    used, held = process.cpu_percent() / 100, process.memory_info().rss
            except psutil.Error:
                del self._processes[pid]
                continue
            cores[self._roles[pid]] += used
            rss[self._roles[pid]] += held
        before, self._machine = self._machine, _busy_s()
        passed_s = self._machine[0] - before[0]
        if passed_s > 0:
            cores["others"] = max(0.0, (self._machine[1] - before[1]) / passed_s - sum(cores.values()))
        for role, used in cores.items():
            self._samples[role].append((at_s, used, rss[role]))

    def cores_now(self) -> float | None:
        """Cores in use by the platform at the last sample."""
        last = [samples[-1][1] for role, samples in self._samples.items() if samples and role not in BESIDE]
        return sum(last) if last else None

    def mean_cores(self, role: str, from_s: float) -> float | None:
        """Cores that a role used on average from `from_s` on; None where it was not sampled."""
        used = [sample[1] for sample in self._samples.get(role, ()) if sample[0] >= from_s]
        return sum(used) / len(used) if used else None

    def summary(self, from_s: float) -> list[dict[str, Any]]:
        """By role: mean and greatest use from `from_s` on, and the series [second, cores, bytes]."""
        rows = []
        for role, samples in sorted(self._samples.items()):
            measured = [sample for sample in samples if sample[0] >= from_s] or samples
            rows.append({
                "role": role,
                "cores_mean": round(sum(s[1] for s in measured) / len(measured), 3),
                "cores_max": round(max(s[1] for s in measured), 3),
                "rss_max_bytes": max(s[2] for s in measured),
                "series": [[round(s[0], 1), round(s[1], 3), s[2]] for s in samples],
            })  # fmt: skip
        return rows


def _role_of(process: psutil.Process) -> str:
    return "ray" if "ray" in process.name() or process.name().startswith("gcs_server") else "supervisor"


def _busy_s() -> tuple[float, float]:
    """(now, processor seconds used) of the whole machine."""
    times = psutil.cpu_times()
    idle_s = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "steal", 0.0)
    guests_s = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted in user time already
    return time.monotonic(), sum(times) - idle_s - guests_s
