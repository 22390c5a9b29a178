"""All benchmarks as a smoke run, in one process and most of them on one platform: that none of them rots costs little.

Figures of such a run mean little. What is published comes from each script by itself (`make bench`), on a platform of its own.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from benchmarks.own_platform import shared_platform


def main() -> None:
    with shared_platform():
        for file in sorted(Path(__file__).parent.glob("bench_*.py")):
            print(f"== benchmarks/{file.name}", flush=True)
            sys.argv = [str(file), "--quick"]
            try:
                runpy.run_path(str(file), run_name="__main__")
            except SystemExit as ended:
                if ended.code:
                    raise


if __name__ == "__main__":
    main()
