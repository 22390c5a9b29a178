"""What benchmark scripts share: how long, how to time, and one place for results.

A benchmark is a script `bench_<subject>.py` that takes `--quick`, prints a table and writes build/bench/<subject>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "build" / "bench"
QUICK_S, FULL_S = 0.05, 2.0


def seconds_each(work: Callable[[], object], for_s: float) -> float:
    """Median time of one call, over calls made for about `for_s` seconds after one to warm up."""
    work()
    times = []
    until = time.perf_counter() + for_s
    while not times or time.perf_counter() < until:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


class Bench:
    """One script's figures. `seconds` is how long to measure each."""

    def __init__(self, subject: str, options: Callable[[argparse.ArgumentParser], None] = lambda _: None) -> None:
        """`options` adds arguments of the script's own, found in `options` afterwards."""
        self._about = (sys.modules["__main__"].__doc__ or "").strip().splitlines()[0]
        parser = argparse.ArgumentParser(description=self._about)
        parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean little")
        options(parser)
        self.options = parser.parse_args()
        self.quick: bool = self.options.quick
        self.seconds = QUICK_S if self.quick else FULL_S
        self.subject = subject
        self._figures: list[dict[str, object]] = []

    def note(self, name: str, value: float, unit: str, bound: str = "", aim: str = "") -> None:
        """Print a figure and keep it. `bound`: what it has to be, and `aim`: what would be better, as `≥ 60,000`."""
        wanted = f"   ({bound}; aim {aim})" if aim else f"   ({bound})" if bound else ""
        print(f"  {name:<44} {value:>14,.2f} {unit}{wanted}", flush=True)
        self._figures.append({"name": name, "value": value, "unit": unit, "bound": bound, "aim": aim})

    def finish(self) -> None:
        """Write the figures with the machine they were measured on."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
        result = {
            "subject": self.subject, "about": self._about, "script": f"benchmarks/{Path(sys.argv[0]).name}",
            "quick": self.quick, "machine": machine, "figures": self._figures,
        }  # fmt: skip
        (RESULTS / f"{self.subject}.json").write_text(json.dumps(result, indent=1) + "\n")
