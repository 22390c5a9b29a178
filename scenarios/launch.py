"""Runs as others see them: start one in a process of its own, watch it, list them, read their reports.

Everything there is to know lies in the run's folder, `reports/<time>-<scenario>/`, so this needs no memory.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from datetime import UTC
from pathlib import Path
from typing import Final

import msgspec
import psutil

from domain.errors import Conflict, InvalidInput, NotFound
from domain.instants import from_us
from domain.ports import Clock
from scenarios.catalogue import open_scenario, scenario_names
from scenarios.progress import Progress, ProgressBook, Stage, read_progress
from scenarios.report.document import Report, decode_report

_RUN_ID: Final = re.compile(r"\d{8}-\d{6}-[A-Za-z0-9_-]{1,64}\Z")
_REPOSITORY: Final = Path(__file__).resolve().parent.parent


def new_run_id(name: str, now_us: int) -> str:
    """`20261123-081005-wan-cut`: sorts by time."""
    stem = re.sub(r"[^A-Za-z0-9_-]", "-", Path(name).stem)[:64]
    return f"{from_us(now_us).astimezone(UTC):%Y%m%d-%H%M%S}-{stem}"


class ScenarioRuns:
    """Runs under `reports`, made against the platform of `data_dir`."""

    def __init__(self, reports: Path, data_dir: Path, clock: Clock) -> None:
        self._reports = reports
        self._data_dir = data_dir
        self._clock = clock
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def list_scenarios(self) -> list[dict[str, object]]:
        """Name, title, story, covered clauses and settings of each scenario there is."""
        listed: list[dict[str, object]] = []
        for name in scenario_names():
            scenario = open_scenario(name)
            listed.append({
                "name": name, "title": scenario.title, "story": scenario.story.strip(), "covers": scenario.covers,
                "warmup_s": scenario.warmup_s, "duration_s": scenario.duration_s,
                "settings": msgspec.to_builtins(scenario),
            })  # fmt: skip
        return listed

    async def start(self, name: str, settings: dict[str, str]) -> str:
        """Start a run and return its id at once. Raises NotFound, InvalidInput, or Conflict while another one runs."""
        if name not in scenario_names():  # a caller of the API names a scenario, never a file
            raise NotFound(f"scenario {name!r} is unknown: expected one of {', '.join(scenario_names())}")
        scenario = open_scenario(name, settings)
        running = self._running()
        if running is not None:
            raise Conflict(f"scenario run {running.run_id} is still {running.stage}: one run at a time measures honestly")
        run_id = new_run_id(name, self._clock.now_us())
        folder = self._reports / run_id
        folder.mkdir(parents=True)
        assignments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        with (folder / "run.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603, ASYNC220 (our own module; it only forks here)
                [sys.executable, "-m", "cluster.cli", "scenario", "run", name, *assignments, "--run-id", run_id,
                "--reports", str(self._reports.resolve()), "--data-dir", str(self._data_dir.resolve())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=_REPOSITORY, start_new_session=True,
            )  # fmt: skip
        self._started[run_id] = process
        book = ProgressBook(folder, run_id, name, scenario.total_s)
        book.now = msgspec.structs.replace(book.now, pid=process.pid)
        book.tell(stage=Stage.PREPARING)
        return run_id

    def progress(self, run_id: str) -> dict[str, object]:
        """State of a run; one whose process is gone without an end has failed. Raises NotFound."""
        progress = self._progress(run_id)
        built: dict[str, object] = msgspec.to_builtins(progress)
        return built

    def list_runs(self) -> list[dict[str, object]]:
        """Runs, the newest first."""
        if not self._reports.is_dir():
            return []
        ids = sorted((path.name for path in self._reports.iterdir() if _RUN_ID.match(path.name)), reverse=True)
        return [self.progress(run_id) for run_id in ids if read_progress(self._reports / run_id)]

    def report(self, run_id: str, media: str) -> bytes:
        """The report as `html` or `json`. Raises NotFound while there is none."""
        if media not in ("html", "json"):
            raise InvalidInput(f"a report comes as 'html' or 'json', not {media!r}")
        path = self._folder(run_id) / f"report.{media}"
        if not path.exists():
            raise NotFound(f"scenario run {run_id} has no report: it is {self._progress(run_id).stage}")
        return path.read_bytes()

    async def ended(self, run_id: str) -> int:
        """Wait until the process of a run started here has ended; its exit code. Raises NotFound."""
        process = self._started.get(run_id)
        if process is None:
            raise NotFound(f"scenario run {run_id!r} was not started by this process")
        return await asyncio.to_thread(process.wait)

    def _progress(self, run_id: str) -> Progress:
        if run_id in self._started:
            self._started[run_id].poll()  # or its end would stay unnoticed
        progress = read_progress(self._folder(run_id))
        if progress is None:
            raise NotFound(f"scenario run {run_id!r} is unknown")
        if not progress.is_over and not _is_alive(progress.pid):
            return msgspec.structs.replace(progress, stage=Stage.FAILED, detail="the run's process ended before its report")
        return progress

    def _running(self) -> Progress | None:
        return next((p for run in self.list_runs() if not (p := self._progress(str(run["run_id"]))).is_over), None)

    def _folder(self, run_id: str) -> Path:
        if not _RUN_ID.match(run_id):
            raise NotFound(f"scenario run {run_id!r} is unknown")
        return self._reports / run_id


def latest_run(reports: Path) -> str:
    """The newest run that has a report. Raises NotFound."""
    found = sorted(path.parent.name for path in reports.glob("*/report.json"))
    if not found:
        raise NotFound(f"there is no report in {reports}: make one with `vitalgrid scenario run calm-district`")
    return found[-1]


def load_report(reports: Path, run: str) -> Report:
    """The report of a run by id, or of a folder or `report.json` by path. Raises NotFound or InvalidInput."""
    candidates: list[Path] = [reports / run / "report.json", Path(run) / "report.json", Path(run)]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise NotFound(f"run {run!r} has no report in {reports}")
    try:
        return decode_report(path.read_bytes())
    except msgspec.DecodeError as error:
        raise InvalidInput(f"{path} is not a report of this version: {error}") from error


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
