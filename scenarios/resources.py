"""What the platform's processes use, once a second, by role: CPU in cores, resident memory in bytes."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import psutil


class Resources:
    """Samples the processes named in `pids` and their children; a process that ends is left out from then on."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._roles: dict[int, str] = {}
        self._processes: dict[int, psutil.Process] = {}
        self._samples: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
        self.follow(pids)

    def follow(self, pids: Mapping[str, int]) -> None:
        """Learn of processes (again): named ones keep their role, other children of `up` are its own."""
        named = {pid: role.partition(":")[0] for role, pid in pids.items() if pid}
        for pid, role in named.items():
            with contextlib.suppress(psutil.Error):
                for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
                    self._add(process, named.get(process.pid, _role_of(process, role)))

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
                    cores[self._roles[pid]] += process.cpu_percent() / 100
                    rss[self._roles[pid]] += process.memory_info().rss
            except psutil.Error:
                del self._processes[pid]
        for role, used in cores.items():
            self._samples[role].append((at_s, used, rss[role]))

    def cores_now(self) -> float | None:
        """Cores in use by the platform at the last sample; the generator is not of the platform."""
        last = [samples[-1][1] for role, samples in self._samples.items() if samples and role != "generator"]
        return sum(last) if last else None

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


def _role_of(process: psutil.Process, parent_role: str) -> str:
    name = process.name()
    if name.startswith(("raylet", "gcs_server")) or "ray" in name:
        return "ray"
    return parent_role
