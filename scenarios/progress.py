"""How a run is going: told once a second to whoever shows it, and kept in `progress.json` for everybody else."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from scenarios.verdicts import Verdict

FILE: Final = "progress.json"


class Stage(StrEnum):
    PREPARING = "preparing"
    REGISTERING = "registering the fleet"
    CONNECTING = "connecting"
    WARMING_UP = "warming up"
    MEASURING = "measuring"
    CLOSING = "closing the books"
    FINISHED = "finished"
    FAILED = "failed"


class Progress(msgspec.Struct, frozen=True):
    """One moment of a run. Figures are None before they exist. `eta_s`: until the report, roughly."""

    run_id: str
    scenario: str
    stage: Stage
    pid: int
    at_s: float = 0.0
    total_s: float = 0.0
    eta_s: float | None = None
    devices: int = 0
    connected: int = 0
    readings_per_s: float | None = None
    sent: int = 0
    acknowledged: int = 0
    durable_p99_ms: float | None = None
    query_p99_ms: float | None = None
    alarms: int = 0
    alarm_stream: bool | None = None
    late_share: float | None = None
    platform_cores: float | None = None
    lost: int | None = None
    doubled: int | None = None
    verdict: Verdict | None = None
    detail: str = ""

    @property
    def is_over(self) -> bool:
        return self.stage in (Stage.FINISHED, Stage.FAILED)


Show = Callable[[Progress], None]


class ProgressBook:
    """The present progress; each change is written and shown."""

    def __init__(self, folder: Path, run_id: str, scenario: str, total_s: float, show: Show | None = None) -> None:
        self._folder = folder
        self._show = show
        self.now = Progress(run_id, scenario, Stage.PREPARING, os.getpid(), total_s=total_s)

    def tell(self, **changes: object) -> Progress:
        """Change some fields, write the file (atomically) and show."""
        self.now = msgspec.structs.replace(self.now, **changes)
        write_file(self._folder / FILE, msgspec.json.encode(self.now))
        if self._show is not None:
            self._show(self.now)
        return self.now


def write_file(path: Path, content: bytes) -> None:
    """Write so that a reader sees the old content or the new one, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def read_progress(folder: Path) -> Progress | None:
    """The progress of the run in `folder`; None when there is none."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Progress)
    except FileNotFoundError:
        return None
