"""Where and by what a run was made, so that it can be repeated: machine, commit, command."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Final

import psutil

from domain.instants import from_us
from scenarios.report.document import Machine, Provenance

_REPOSITORY: Final = Path(__file__).resolve().parent.parent


def provenance(run_id: str, command: str, started_us: int) -> Provenance:
    started = from_us(started_us).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Provenance(run_id, started, command, commit_of(_REPOSITORY), this_machine())


def this_machine() -> Machine:
    return Machine(
        cpus=os.cpu_count() or 1,
        cpu_model=_cpu_model(),
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def commit_of(folder: Path) -> str:
    """The git commit, with `+` when the tree was changed since; "unknown" outside a repository."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    try:
        asked = subprocess.run(  # noqa: S603 (fixed arguments)
            [git, "describe", "--always", "--dirty=+", "--abbrev=12"], cwd=folder, capture_output=True, text=True,
            timeout=10, check=True,
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError):
        return "unknown"
    return asked.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
