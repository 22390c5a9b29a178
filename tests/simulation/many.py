"""Many runs, side by side; what is wrong with each, in words that say how to repeat it."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.checker import broken
from tests.simulation.story import play

_MOST_FAILURES = 10
_CHUNK = 20


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


def run_many(seeds: range, jobs: int) -> int:
    """Play them side by side; says what failed as it fails, and the pace at the end. Returns how many failed."""
    began, failures, done = time.monotonic(), 0, 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(seeds)), mp_context=context) as pool:
        for failure in pool.map(verdict, seeds, chunksize=max(1, min(_CHUNK, len(seeds) // jobs))):
            done += 1
            if failure is not None:
                failures += 1
                print(failure, flush=True)
            if failures == _MOST_FAILURES:
                pool.shutdown(cancel_futures=True)
                break
    took_s = time.monotonic() - began
    pace = f"{done} runs from seed {seeds.start} on in {took_s:.1f} s ({60 * done / took_s:,.0f} a minute)"
    print(f"{pace}: {failures} failed" if failures else f"{pace}: every promise was kept")
    return failures
