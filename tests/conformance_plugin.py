"""Collects which tests show which clause, with their outcomes, into build/conformance.json.

Switched on by `make test` (`-p tests.conformance_plugin`). `docs/generate.py conformance` makes the page from it.
A marker that names an unknown clause stops the run: a typing error must not read as "no test yet".
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
CLAUSES: Final = ROOT / "docs" / "clauses.toml"
RESULT: Final = ROOT / "build" / "conformance.json"

# the worst outcome of a test's phases (setup, call, teardown) counts
_CLAUSE: Final = "clause"  # name of a test's property
_SEVERITY: Final = {"passed": 0, "skipped": 1, "failed": 2}


def clause_ids(path: Path = CLAUSES) -> list[str]:
    """Ids of all clauses, in the order of the standard."""
    return [clause["id"] for clause in tomllib.loads(path.read_text())["clause"]]


class Collector:
    """One run's outcomes, test by clause. A test carries its clauses, so that they come back from a worker with its report."""

    def __init__(self) -> None:
        self.outcomes: dict[str, dict[str, str]] = {}

    @staticmethod
    def mark(items: Iterable[pytest.Item]) -> None:
        """Put its clauses into each test's properties; raises UsageError naming each unknown one."""
        known = set(clause_ids())
        unknown: list[str] = []
        for item in items:
            ids = tuple(dict.fromkeys(id_ for mark in item.iter_markers("clause") for id_ in mark.args))
            unknown += [f"{item.nodeid}: {id_!r}" for id_ in ids if id_ not in known]
            item.user_properties += [(_CLAUSE, id_) for id_ in ids]
        if unknown:
            raise pytest.UsageError("clause markers name clauses that docs/clauses.toml does not have: " + "; ".join(unknown))

    def note(self, report: pytest.TestReport) -> None:
        """Keep the worst outcome of a test, under each of its clauses."""
        for name, id_ in report.user_properties:
            if name == _CLAUSE:
                tests = self.outcomes.setdefault(str(id_), {})
                if _SEVERITY[report.outcome] >= _SEVERITY[tests.get(report.nodeid, "passed")]:
                    tests[report.nodeid] = report.outcome

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.outcomes, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


class _Hooks:
    def __init__(self, result: Path) -> None:
        self._collector = Collector()
        self._result = result

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self._collector.mark(items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._collector.note(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        is_worker = hasattr(session.config, "workerinput")  # its reports go to the process that started it
        if not is_worker and self._collector.outcomes:
            self._collector.write(self._result)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Hooks(RESULT), "vitalgrid-conformance")
