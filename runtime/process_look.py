"""A look at a process of this machine from outside: is it there, is it stopped, does it want the processor. Linux."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_STOPPED: Final = {"T", "t"}
_ENDED: Final = {"Z", "X"}
_WAITS_FOR_DISK: Final = "D"


@dataclass(frozen=True, slots=True)
class ProcessLook:
    """`wanted_s`: processor time that its threads have used or stood in line for, since they began.

    `is_at_disk`: a thread waits for a disk, or for memory that was swapped out.
    """

    is_stopped: bool
    is_at_disk: bool
    wanted_s: float


def look_at(pid: int) -> ProcessLook | None:
    """How a process stands now; None when it is gone, or a zombie."""
    process = Path(f"/proc/{pid}")
    state = _state(process)
    if state is None or state in _ENDED:
        return None
    threads = list(process.glob("task/*"))
    wanted_ns = sum(_wanted_ns(thread) for thread in threads)
    return ProcessLook(state in _STOPPED, any(_state(thread) == _WAITS_FOR_DISK for thread in threads), wanted_ns / 1e9)


def is_running(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    state = _state(Path(f"/proc/{pid}"))
    return state is not None and state not in _ENDED


def _state(task: Path) -> str | None:
    with contextlib.suppress(OSError):  # it ended just now
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    return None


def _wanted_ns(thread: Path) -> int:
    """What a thread has run and what it has waited for a processor: the first two numbers of its schedstat."""
    with contextlib.suppress(OSError):
        ran, waited, _ = (thread / "schedstat").read_text().split()
        return int(ran) + int(waited)
    return 0
