"""Play many runs: `python -m tests.simulation --seeds 1000`, or one again: `--seed 17`. See `make simulate`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time

from tests.simulation.checker import broken
from tests.simulation.story import play

_MOST_FAILURES = 10


def verdict(seed: int) -> str | None:
    """What is wrong with the run of `seed`, and the line that repeats it; None when nothing is."""
    try:
        found = broken(play(seed))
    except Exception as error:  # noqa: BLE001 (whatever a run ends in, its seed is worth more than the traceback)
        found = {type(error).__name__: [str(error)]}
    if not found:
        return None
    sentences = [f"  {promise}: {sentence}" for promise, places in found.items() for sentence in places]
    return "\n".join([f"seed {seed} breaks {len(found)} promises; again: make simulate SEED={seed}", *sentences])


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, help="how many runs (1,000, or the one of --seed)")
    parser.add_argument("--seed", type=int, help="the first one's seed; by default a new one each time")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    wanted = parser.parse_args()
    first = random.SystemRandom().randrange(10**9) if wanted.seed is None else wanted.seed
    count = wanted.seeds or (1000 if wanted.seed is None else 1)
    failures = run_many(range(first, first + count), wanted.jobs)
    return 1 if failures else 0


def run_many(seeds: range, jobs: int) -> int:
    """Play them side by side; says what failed as it fails, and the pace at the end."""
    began, failures, done = time.monotonic(), 0, 0
    with multiprocessing.get_context("spawn").Pool(min(jobs, len(seeds))) as pool:
        for failure in pool.imap_unordered(verdict, seeds, chunksize=max(1, min(20, len(seeds) // jobs))):
            done += 1
            if failure is not None:
                failures += 1
                print(failure, flush=True)
            if failures == _MOST_FAILURES:
                break
    took_s = time.monotonic() - began
    pace = f"{done} runs from seed {seeds.start} on in {took_s:.1f} s ({60 * done / took_s:,.0f} a minute)"
    print(f"{pace}: {failures} failed" if failures else f"{pace}: every promise was kept")
    return failures


if __name__ == "__main__":
    sys.exit(main())
