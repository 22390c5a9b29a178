"""What `vitalgrid doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `mend` says what to do about it; None where nothing is wrong."""

    check: str
    level: Level
    says: str
    mend: str | None = None


def ok(check: str, says: str) -> Finding:
    return Finding(check, Level.OK, says)
