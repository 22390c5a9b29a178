"""A look at a process of this machine from outside: is it there, is it stopped, does it want the processor. Linux."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_STOPPED: Final = {"T", "t"}
_ENDED: Final = {"Z", "X"}
_PENDING: Final = {"R", "D"}  # runs or stands in line for a processor; waits for a disk, or for memory that was swapped out
_MUCH: Final = 0.5  # of the time; threads that wait for Python look every half a millisecond, and want a few hundredths


@dataclass(frozen=True, slots=True)
class ProcessLook:
    """`pending`: threads that could go on if the machine let them. `wanted_s`: what each has used or stood in line for."""

    is_stopped: bool
    pending: frozenset[int]
    wanted_s: Mapping[int, float]


def look_at(pid: int) -> ProcessLook | None:
    """How a process stands now; None when it is gone, or a zombie."""
    process = Path(f"/proc/{pid}")
    state = _state(process)
    if state is None or state in _ENDED:
        return None
    threads = {int(thread.name): thread for thread in process.glob("task/*")}
    pending = frozenset(number for number, thread in threads.items() if _state(thread) in _PENDING)
    return ProcessLook(state in _STOPPED, pending, {number: _wanted_s(thread) for number, thread in threads.items()})


def wants_the_machine(before: ProcessLook, after: ProcessLook, elapsed_s: float) -> bool:
    """Whether some thread worked, or would have, most of the time between two looks."""
    wanted_s = (after.wanted_s[number] - before.wanted_s.get(number, 0.0) for number in after.wanted_s)
    return bool(before.pending & after.pending) or max(wanted_s, default=0.0) > _MUCH * elapsed_s


def is_running(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    state = _state(Path(f"/proc/{pid}"))
    return state is not None and state not in _ENDED


def _state(task: Path) -> str | None:
    with contextlib.suppress(OSError):  # it ended just now
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    return None


def _wanted_s(thread: Path) -> float:
    """The first two numbers of its schedstat: what it has run, and has waited for a processor, in nanoseconds."""
    with contextlib.suppress(OSError):
        ran, waited, _ = (thread / "schedstat").read_text().split()
        return (int(ran) + int(waited)) / 1e9
    return 0.0
