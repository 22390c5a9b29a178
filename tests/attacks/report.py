"""What a whole run of the attacks showed, as a page: docs/attacks.md. Clause 9.1b."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date

from docs.generate import table
from tests.attacks.attack_run import Outcome


@dataclass
class Played:
    """One platform under one flood after the other."""

    profile: str
    seconds: float  # of each flood
    outcomes: list[Outcome] = field(default_factory=list)
    scanned: dict[str, list[str]] = field(default_factory=dict)  # what testssl.sh holds against each port
    acknowledged: int = 0
    lost: int = 0


def page(runs: Iterable[Played], day: date, p99_s: float) -> str:
    """docs/attacks.md: each flood with what honest clients saw meanwhile."""
    parts = [
        "# Under attack\n",
        "<!-- made by `make attacks`; do not edit -->\n",
        f"Floods against a platform of its own, one after the other, and what honest clients saw meanwhile: a simple query "
        f"may take {p99_s:g} s (p99), and no acknowledged reading may be lost. Attackers, platform and honest clients share "
        f"the machine. {day.isoformat()}, {os.cpu_count()} cores, Python {platform.python_version()}.\n",
    ]
    for run in runs:
        parts += [f"## Profile `{run.profile}`, {run.seconds:g} s each\n", table(_HEAD, map(_row, run.outcomes))]
        parts.append(f"{run.acknowledged:,} readings acknowledged meanwhile, {run.lost:,} lost.\n")
        if run.scanned:
            parts.append("testssl.sh, findings of medium severity or above:\n")
            parts.append(table(("port of", "findings"), _scanned(run.scanned)))
    return "\n".join(parts)


_HEAD = ("flood", "query p99, s", "queries", "failed", "alarm after, s", "grew most", "what the attackers were told")


def _row(outcome: Outcome) -> tuple[object, ...]:
    told = ", ".join(f"{what} {count:,}" for what, count in sorted(outcome.attackers.items()))
    seen = outcome.seen
    grown = f"{outcome.grown}, {max(0, outcome.growth_bytes) >> 20} MiB" if outcome.grown else ""
    return (outcome.name, f"{seen.p99_s():.3f}", len(seen.taken_s), len(seen.failed), f"{seen.alarm_s:.1f}", grown, told)


def _scanned(scanned: dict[str, list[str]]) -> Iterable[tuple[str, str]]:
    """Ports change with each start, so only who listens is named."""
    for port, found in scanned.items():
        yield port.partition(":")[0], "; ".join(found) or "none"
