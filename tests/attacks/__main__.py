"""`python -m tests.attacks`: every flood, one after the other, against a platform of its own; exit code 1 when one of them
keeps honest clients waiting for more than a second, costs a reading or an alarm, or makes a process grow by 400 MiB, and
when testssl.sh holds something against a port or could not scan it.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.attacks.attack_run import AttackBench
from tests.attacks.floods import FLOODS
from tests.attacks.report import Played, page
from tests.attacks.tools import SLOW, scan, slow_command, tls_ports
from tests.running_platform import RunningPlatform, start_platform

TOOLS: Final = ("slowhttptest", "testssl")
P99_S: Final = 1.0  # issue: an honest client's simple query
PROFILES: Final = ("dev", "standard")
PAGE: Final = Path("docs/attacks.md")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def play(
    platform: RunningPlatform, only: list[str] | None, run: Played, *, shares_address: bool, scans: bool
) -> bool:  # fmt: skip
    """Whether every invariant held. `only` some floods, and no program of others."""
    seconds, outcomes = run.seconds, run.outcomes
    names = only or list(FLOODS)
    bench = AttackBench(platform, connections=500, busy=64, shares_address=shares_address)
    await bench.start(len(names) + len(SLOW) + 1)
    outcomes.append(await bench.quiet(seconds))
    say(str(outcomes[0]))
    for name in names:
        outcomes.append(await bench.under([name], seconds))
        say(str(outcomes[-1]))
    for name in SLOW if shutil.which("slowhttptest") and not only else ():
        url = f"{platform.connection.api_url}/health"
        outcomes.append(await bench.beside(name, slow_command(name, url, seconds), seconds))
        say(str(outcomes[-1]))
    await bench.honest.close()
    problems = [f"{outcome.name}: {problem}" for outcome in outcomes for problem in outcome.problems(P99_S)]
    if not only:
        problems += [f"{tool} is not installed: make attack-tools" for tool in TOOLS if shutil.which(tool) is None]
    if scans and platform.connection.api_trust is not None and shutil.which("testssl") and not only:
        problems += await scan_all(platform, run)
    for problem in problems:
        say(f"    {problem}")
    lost = await bench.honest.lost()
    run.acknowledged, run.lost = len(bench.honest.acknowledged), len(lost)
    say(f"{run.acknowledged} readings acknowledged meanwhile, {run.lost} lost")
    return not lost and not problems


async def scan_all(platform: RunningPlatform, run: Played) -> list[str]:
    """What testssl.sh finds at any port of the whole platform that speaks TLS."""
    problems = []
    for name, port in tls_ports(platform).items():
        found = await scan(platform, name, port)
        if any(one.startswith("not ") for one in found):  # a test that met a busy machine; what stays so is a finding
            found = await scan(platform, name, port)
        run.scanned[name] = found
        say(f"    testssl.sh at {name}: {len(found)} findings")
        problems += [f"testssl.sh, {name}: {finding}" for finding in found]
    return problems


async def only_scan(platform: RunningPlatform, run: Played) -> bool:
    """Whether testssl.sh has nothing to say against any port."""
    problems = await scan_all(platform, run)
    for problem in problems:
        say(f"    {problem}")
    return not problems


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("--profile", choices=("dev", "standard"), action="append", help="both, one after the other")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each flood")
    parser.add_argument("--only", choices=tuple(FLOODS), action="append")
    parser.add_argument("--shared-address", action="store_true", help="attackers come from the address of honest clients")
    parser.add_argument("--no-scan", action="store_true", help="floods alone: testssl.sh takes half of the time")
    parser.add_argument("--scan", action="store_true", help="testssl.sh at every TLS port alone, in profile standard")
    given = parser.parse_args()
    held, runs = True, []

    def played(platform: RunningPlatform, run: Played) -> Coroutine[Any, Any, bool]:
        if given.scan:
            return only_scan(platform, run)
        return play(platform, given.only, run, shares_address=given.shared_address, scans=not given.no_scan)

    for profile in given.profile or (("standard",) if given.scan else PROFILES):
        say(f"security profile {profile}, {given.seconds:g} s each")
        runs.append(Played(profile, given.seconds))
        with tempfile.TemporaryDirectory(prefix="vitalgrid-attacks-") as folder:
            platform = start_platform(Path(folder) / "var", SECURITY__PROFILE=profile)
            try:
                held &= asyncio.run(played(platform, runs[-1]))
            finally:
                platform.stop()
    if not (given.scan or given.only or given.profile or given.shared_address):
        PAGE.write_text(page(runs, datetime.now(UTC).date(), P99_S))
        say(f"wrote {PAGE}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
