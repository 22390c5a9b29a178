"""Play many runs: `python -m tests.simulation --seeds 1000`, or one again: `--seed 17`. See `make simulate`."""

from __future__ import annotations

import argparse
import os
import random
import sys

from tests.simulation.many import run_many


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


if __name__ == "__main__":
    sys.exit(main())
