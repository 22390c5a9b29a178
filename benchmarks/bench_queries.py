"""Questions to a lake of many readings through the REST API while readings come in, beside DuckDB on the same files.

    python benchmarks/bench_queries.py                            10⁸ readings
    python benchmarks/bench_queries.py --rows 1e9 --ingest 435000 10⁹, with that many readings/s coming in
    python benchmarks/bench_queries.py --quick                    2 million, as in CI

The week of readings is made once and kept in `--keep` (10⁹: a quarter of an hour, 1.7 GB). A platform is started on links to
its files, gateways send to it, and each question is put to us and then to the peer, each time of other devices, hours and
names; what they answer must be the same. "20 at once" are four of each complex question, each on a connection of its own. The
peer has its footers cached and as many threads as there are cores. Each phase has its time, and what is under way is said as
it begins: the whole takes about seven minutes beside the making. An answer that does not come within half a minute counts as
that long, and as failed. Clauses 7.1a-c, 7.3.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random

import httpx
import numpy as np

from benchmarks.live_load import LiveLoad
from benchmarks.measure import Bench
from benchmarks.own_platform import own_platform
from benchmarks.week_lake import Made, make
from benchmarks.week_questions import Answer, Duck, Question, questions
from tests.running_platform import RunningPlatform

ROW_BYTES = 65  # as columns in memory, without the hospital
AT_ONCE = 20
BULK_ROWS = 1_000_000
LEAST_ROUNDS, MOST_ROUNDS = 40, 200  # of each question by itself …
ROUNDS_S, LONGEST_S = 15.0, 45.0  # … that many in this time, and the least number in at most that
AT_ONCE_ROUNDS, AT_ONCE_S = 10, 45.0
BESIDE_S = 15.0
PEERS_EACH = 6  # rounds
PEERS_S = 10.0  # with a question that takes the peer long it is not asked again


class Api:
    """The REST API as its users see it: what is timed is the whole answer, read."""

    def __init__(self, platform: RunningPlatform) -> None:
        self._client = platform.http(limits=httpx.Limits(max_connections=64), trust_env=False)
        self.failed: list[str] = []

    def ask(self, question: Question) -> tuple[float, Answer | None]:
        """How long it took, and the answer; None where there was none."""
        began = time.perf_counter()
        try:
            response = self._client.get(question.path, params=question.parameters)
            taken_s = time.perf_counter() - began
            response.raise_for_status()
        except httpx.HTTPError as error:
            self.failed.append(f"{question.name}: {error!r}")
            return time.perf_counter() - began, None
        return taken_s, question.read(response)


@contextmanager
def running_on(made: Made, folder: Path) -> Iterator[RunningPlatform]:
    """A platform on links to the files of `made`: it may add to the lake and merge, and those stay as they are."""
    data_dir = folder / "var"
    data_dir.mkdir(mode=0o700)  # the platform takes no folder with things in it that others may look into
    shutil.copytree(made.data_dir / "lake", data_dir / "lake", copy_function=_linked)
    for file in made.data_dir.glob("vitalgrid.db*"):
        shutil.copy(file, data_dir)
    if (made.data_dir / "keys").exists():  # lakes that were kept from before names were sealed have none
        shutil.copytree(made.data_dir / "keys", data_dir / "keys")
    with own_platform(data_dir) as (platform, _):
        yield platform


def _linked(source: str, target: str) -> str:
    """Data is linked, the log is copied."""
    return os.link(source, target) or target if source.endswith(".parquet") and "_delta_log" not in source \
        else str(shutil.copy2(source, target))  # fmt: skip


def note_times(bench: Bench, question: Question, ours_s: list[float], peers_s: list[float]) -> None:
    name = f"{question.clause} {question.name}"
    bench.note(f"{name}, p50", float(np.median(ours_s)), "s")
    bench.note(f"{name}, p99", float(np.quantile(ours_s, 0.99)), "s", *question.bounds)
    if peers_s:
        bench.note(f"{name}, DuckDB p50", float(np.median(peers_s)), "s")
        bench.note(f"{name}, p50 ÷ DuckDB", float(np.median(ours_s) / np.median(peers_s)), "", "≤ 1.5", "≤ 0.7")


def say(what: str) -> None:
    """What begins now, for whoever waits."""
    print(f"  … {what}", file=sys.stderr, flush=True)


def one_by_one(bench: Bench, api: Api, duck: Duck, made: Made, load: LiveLoad) -> None:
    """Each question many times, then the peer."""
    random = Random(1)
    for kind in questions(made, load.ward):
        question = kind(random)
        say(question.name)
        api.ask(question)
        note_times(bench, question, *asked_in_turn(bench, api, duck, kind, random))


def asked_in_turn(
    bench: Bench, api: Api, duck: Duck, kind: Callable[[Random], Question], random: Random
) -> tuple[list[float], list[float]]:
    """How long each answer took us, and then the peer for some of the same questions. Both must answer the same.

    The peer takes every core: what came in meanwhile is given as long to be worked off before anybody is timed again.
    """
    least, most, peers_each = (2, 2, 1) if bench.quick else (LEAST_ROUNDS, MOST_ROUNDS, PEERS_EACH)
    asked: list[tuple[float, Question, Answer | None]] = []
    ours_s, peers_s = 0.0, 0.0
    while len(asked) < most and ours_s < (ROUNDS_S if len(asked) >= least else LONGEST_S):
        question = kind(random)
        taken_s, answer = api.ask(question)
        asked.append((taken_s, question, answer))
        ours_s += taken_s
    peers: list[float] = []
    for _, question, answer in asked[::peers_each]:
        if question.sql and peers_s < PEERS_S:
            taken_s, other = duck.ask(question)
            peers.append(taken_s)
            peers_s += taken_s
            check(question, answer, other)
    time.sleep(min(peers_s, LONGEST_S))
    return [taken_s for taken_s, _, _ in asked], peers


def check(question: Question, answer: Answer | None, other: Answer | None) -> None:
    """Fail where both have answered and not the same."""
    is_same = answer is None or other is None or answer.agrees_with(other)
    assert is_same, f"{question.name}: {answer} is not what DuckDB says, {other}"


def many(made: Made, load: LiveLoad, random: Random) -> list[Question]:
    """Four of each complex question."""
    complex_ones = [kind for kind in questions(made, load.ward) if kind(random).clause == "7.1b"]
    return [complex_ones[number % len(complex_ones)](random) for number in range(AT_ONCE)]


def at_once(bench: Bench, api: Api, made: Made, load: LiveLoad) -> None:
    random = Random(2)
    taken_s: list[float] = []
    say(f"{AT_ONCE} complex at once")
    until = time.monotonic() + AT_ONCE_S
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in range(1 if bench.quick else AT_ONCE_ROUNDS):
            taken_s += [answered_s for answered_s, _ in pool.map(api.ask, many(made, load, random))]
            if time.monotonic() > until:
                break
    note_times(bench, Question("7.1c", f"{AT_ONCE} complex at once", bounds=("≤ 2", "≤ 1")), taken_s, [])


def small_beside_large(bench: Bench, api: Api, made: Made, load: LiveLoad) -> None:
    """Whether complex questions, always twenty of them, keep small ones waiting."""
    random = Random(3)
    small = questions(made, load.ward)[0]
    say(f"small ones beside {AT_ONCE} complex")
    until = time.monotonic() + (1.0 if bench.quick else BESIDE_S)

    def keep_asking(seed: int) -> int:
        own, asked = Random(seed), 0
        while time.monotonic() < until:
            api.ask(many(made, load, own)[seed % AT_ONCE])
            asked += 1
        return asked

    with ThreadPoolExecutor(AT_ONCE) as pool:
        busy = [pool.submit(keep_asking, seed) for seed in range(AT_ONCE)]
        times_s: list[float] = []
        while not times_s or time.monotonic() < until:
            times_s.append(api.ask(small(random))[0])
        answered = sum(job.result() for job in busy)
    bench.note(f"7.1a small beside {AT_ONCE} complex, p50", float(np.median(times_s)), "s")
    bench.note(f"7.1a small beside {AT_ONCE} complex, p99", float(np.quantile(times_s, 0.99)), "s", "≤ 0.3", "≤ 0.05")
    bench.note("complex ones answered meanwhile", answered, "")


def in_bulk(bench: Bench, api: Api, duck: Duck, made: Made) -> None:
    question = Question(
        "7.1b", "export", "/readings",
        {"hospital": made.hospitals[0], "metric": "heart_rate", "limit": BULK_ROWS, "format": "arrow"},
        f"select * from readings where hospital = '{made.hospitals[0]}' and metric = 1 "
        f"order by handle, metric, instance, time_us limit {BULK_ROWS}",
    )  # fmt: skip
    say("a bulk read")
    api.ask(question)
    ours_s, answer = api.ask(question)
    peers_s, other = duck.ask(question)
    check(question, answer, other)
    if answer is not None and other is not None:
        bench.note(f"bulk read of {answer.rows:,} rows as Arrow", answer.rows / ours_s, "rows/s")
        bench.note("the same from DuckDB", other.rows / peers_s, "rows/s")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=float, help="about how many readings the lake holds (10⁸)")
    parser.add_argument("--ingest", type=int, help="readings a second that come in meanwhile (100,000)")
    parser.add_argument("--keep", type=Path, default=Path("build/lakes"), help="where the made lake is kept")


def main() -> None:
    bench = Bench("queries", options)
    rows = int(bench.options.rows or (2e6 if bench.quick else 1e8))
    say(f"a lake of {rows:,} readings, made unless it is there")
    made = make(bench.options.keep, rows)
    rollups = sum(file.stat().st_size for file in made.data_dir.glob("lake/readings/_rollups/*/*"))
    bench.note("readings in the lake", made.rows, "")
    bench.note("stored, with rollups", (made.size_bytes + rollups) / made.rows, "bytes/reading", "≤ 3", "≤ 1.5")
    bench.note("rollups alone", rollups / made.rows, "bytes/reading")
    bench.note(f"compression of {ROW_BYTES} bytes in memory", ROW_BYTES * made.rows / (made.size_bytes + rollups), ": 1")
    duck = Duck(made)
    with tempfile.TemporaryDirectory(prefix="queries-", dir=bench.options.keep) as folder, \
            running_on(made, Path(folder)) as platform, \
            LiveLoad(platform, bench.options.ingest or (10_000 if bench.quick else 100_000)) as load:  # fmt: skip
        api = Api(platform)
        one_by_one(bench, api, duck, made, load)
        at_once(bench, api, made, load)
        small_beside_large(bench, api, made, load)
        in_bulk(bench, api, duck, made)
        bench.note("came in meanwhile", load.sent_per_s(), "readings/s")
        bench.note("questions that failed", len(api.failed), "", "= 0")
        for failure in sorted(set(api.failed)):
            say(failure)
    bench.finish()


if __name__ == "__main__":
    sys.exit(main())
