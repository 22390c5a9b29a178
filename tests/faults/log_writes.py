"""Writes while a run breaks things: each that was answered has to stand in the access log, once, and the log has to hold."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Final

from domain.audit_reading import said
from domain.errors import VitalgridError
from runtime.log_events import events_between
from runtime.log_store import LogReader
from runtime.log_verifier import CouldNotCheck, DoesNotHold, Source, verify_log
from tests.faults.orders import attempt
from tests.faults.stand import Stand

_PACE_S: Final = 0.7
_LOOK_S: Final = 0.2


class LogWrites:
    """Makes tokens whose names are this run's own. `run` until it is ended, then `check`."""

    def __init__(self, stand: Stand, run: int) -> None:
        self._stand = stand
        self._run = run
        self._folder = stand.data_dir / "audit"
        self._since = LogReader(self._folder).note()
        self.answered: set[str] = set()

    async def run(self) -> None:
        number = 0
        while True:
            name = f"fault-{self._run}-{number}"
            answer = await attempt(self._stand, "POST", "/tokens", {"name": name, "role": "station", "place": "sz"})
            if answer is not None and (answer.is_success or answer.status_code == 409):  # made by a request that broke off
                self.answered.add(name)
                number += 1
            await asyncio.sleep(_PACE_S)

    async def check(self, within_s: float) -> list[str]:
        """What does not hold; what time may mend is looked at until then."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + within_s
        while (problem := await asyncio.to_thread(self._problem)) and loop.time() < until_s:  # noqa: ASYNC110 (files)
            await asyncio.sleep(_LOOK_S)
        return [problem] if problem else []

    def _problem(self) -> str:
        try:
            checkpoint = LogReader(self._folder).checkpoint()
            size = checkpoint.size if checkpoint else 0
            found = Counter(_target(event.event) for event in events_between(self._folder, 0, size))
            if missing := self.answered - found.keys():
                return f"{len(missing)} writes that were answered are not in the access log, such as {min(missing)}"
            if doubled := [name for name in self.answered if found[name] > 1]:
                return f"writes are in the access log more than once, such as {min(doubled)}"
            verify_log(Source(str(self._folder)), _lines(self._folder / "vkeys"), self._since,
                       _lines(self._stand.data_dir / "witness" / "vkey"))  # fmt: skip
        except (DoesNotHold, CouldNotCheck, VitalgridError, OSError) as error:
            return f"the access log does not hold: {error}"
        return ""


def _target(event: bytes | None) -> str:
    line = said(event or b"")
    return "" if line is None else line.target


def _lines(path: Path) -> list[str]:
    return path.read_text().split()
