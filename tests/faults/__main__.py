"""`python -m tests.faults --runs 20 --seed 1`: seeded runs, many of them against one platform; exit code 1 when an
invariant is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.faults.fault_run import FaultBench, RunResult
from tests.faults.schedule import draw
from tests.faults.senders import HOSPITALS
from tests.faults.stand import Stand


async def play(folder: Path, first_seed: int, runs: int, only: str | None, fresh_every: int) -> list[RunResult]:
    """Play seeds one after the other, and say what became of each as it ends. `fresh_every`: runs that share a platform."""
    results: list[RunResult] = []
    seeds = range(first_seed, first_seed + runs)
    for at in range(0, runs, fresh_every):
        results += await _series(FaultBench(Stand(folder / f"var-{seeds[at]}")), seeds[at : at + fresh_every], only)
    return results


async def _series(bench: FaultBench, seeds: range, only: str | None) -> list[RunResult]:
    results: list[RunResult] = []
    try:
        await bench.start()
        for seed in seeds:
            results.append(await bench.play(draw(seed, len(HOSPITALS), only)))
            sys.stdout.write(f"{results[-1]}\n")
            sys.stdout.flush()
            if results[-1].problem:  # what a broken platform says of the next seed means nothing
                await bench.stand.kill_whole()
                await bench.start()
    finally:
        await bench.stand.close()
    return results


def summary(results: list[RunResult]) -> str:
    """Recovery times by kind of fault, and the totals."""
    by_kind: defaultdict[str, list[float]] = defaultdict(list)
    for result in results:
        for kind, seconds in result.recovered_s.items():
            by_kind[kind].append(seconds)
    lines = [f"{'fault':<24} {'runs':>4} {'median s':>9} {'longest s':>9}"]
    for kind, seconds in sorted(by_kind.items()):
        lines.append(f"{kind:<24} {len(seconds):>4} {statistics.median(seconds):>9.1f} {max(seconds):>9.1f}")
    books = [result.verdict.ledger for result in results if result.verdict]
    lines.append(
        f"{len(results)} runs, {sum(not r.holds for r in results)} broken: acknowledged {sum(b.acknowledged for b in books)}, "
        f"lost {sum(b.lost for b in books)}, doubled {sum(b.doubled for b in books)}, "
        f"never sent {sum(b.unexpected for b in books)}"
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the others follow it")
    parser.add_argument("--only", help="one kind of fault, such as 'kill host' or 'blackhole senders'")
    parser.add_argument("--folder", type=Path, help="where the platform lies and is left; without it, nowhere afterwards")
    parser.add_argument("--fresh-every", type=int, default=25, help="runs after which a new platform is started")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vitalgrid-faults-") as aside:
        results = asyncio.run(play(given.folder or Path(aside), given.seed, given.runs, given.only, given.fresh_every))
    sys.stdout.write(f"{summary(results)}\n")
    return 0 if all(result.holds for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
