"""The questions of clause 7.1 to a week of readings: as a request of the REST API, and as SQL for the peer."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

import duckdb
import httpx
import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.week_lake import DAYS, END_US, START_US, Made
from runtime.lake import Lake

HOUR_US = 3_600_000_000
SMALL, COMPLEX = ("≤ 0.3", "≤ 0.05"), ("≤ 1", "≤ 0.3")
PEER_LONGEST_S = 45.0
USABLE = "quality & 15 in (0, 1, 8) and not isnan(value)"
WEEK = f"time_us >= {START_US} and time_us < {END_US}"
ORDER = "handle, metric, instance, time_us"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is compared: how many rows, and the sum of one column of them."""

    rows: int
    total: float

    def agrees_with(self, other: Answer) -> bool:
        return self.rows == other.rows and math.isclose(self.total, other.total, rel_tol=1e-9, abs_tol=1e-6)


@dataclass(frozen=True, slots=True)
class Question:
    clause: str
    name: str
    path: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    sql: str = ""
    summed: str = "value"
    bounds: tuple[str, str] = ("", "")

    def read(self, response: httpx.Response) -> Answer:
        if self.parameters.get("format") == "arrow":
            return answer_of(pa.ipc.open_stream(response.content).read_all(), self.summed)
        items = msgspec.json.decode(response.content)["items"]
        return Answer(len(items), sum(item[self.summed] for item in items if item[self.summed] is not None))


def answer_of(table: pa.Table, summed: str) -> Answer:
    values = pc.cast(table[summed], pa.float64())
    return Answer(len(table), pc.sum(pc.if_else(pc.is_nan(values), 0.0, values)).as_py() or 0.0)


class Duck:
    """DuckDB over the files of the made lake, its answers fetched as Arrow. Each thread may ask."""

    def __init__(self, made: Made) -> None:
        lake = Lake(made.data_dir / "lake" / "readings")
        files = [str(lake.path / path) for path in lake.state().files["path"]]
        self._connection = duckdb.connect()
        self._connection.execute("set parquet_metadata_cache = true")
        self._connection.execute(f"create view readings as select * from read_parquet({files})")
        self._connection.sql("select count(*) from readings where handle = 0").fetchall()

    def ask(self, question: Question) -> tuple[float, Answer | None]:
        """How long it took, and the answer; None where it was given up after PEER_LONGEST_S."""
        cursor = self._connection.cursor()
        patience = threading.Timer(PEER_LONGEST_S, cursor.interrupt)
        patience.start()
        began = time.perf_counter()
        try:
            table = cursor.sql(question.sql).to_arrow_table()
        except duckdb.InterruptException:
            return time.perf_counter() - began, None
        finally:
            patience.cancel()
        return time.perf_counter() - began, answer_of(table, question.summed)


def questions(made: Made, ward: tuple[str, str]) -> list[Callable[[Random], Question]]:
    """Each with devices, hours and names by chance. `ward`: one that says something now."""
    return [
        lambda random: device_range(made, random),
        lambda _: latest_of_ward(*ward),
        lambda random: patient_over_the_week(made, random, 3600),
        lambda random: patient_over_the_week(made, random, 600),
        lambda random: by_part_of_a_name(made, random),
        beyond_a_threshold,
        lambda _: fleet_by_hour(),
    ]


def device_range(made: Made, random: Random) -> Question:
    handle = random.choice(made.bedside)
    from_us = START_US + random.randrange(DAYS * 24 - 1) * HOUR_US + random.randrange(HOUR_US)
    where = f"handle = {handle} and metric = 1 and time_us >= {from_us} and time_us < {from_us + HOUR_US}"
    return Question(
        "7.1a", "a device's hour", "/readings",
        {"handle": handle, "metric": "heart_rate", "limit": 10_000, **_span(from_us, from_us + HOUR_US)},
        f"select * from readings where {where} order by {ORDER}", bounds=SMALL,
    )  # fmt: skip


def latest_of_ward(hospital: str, ward: str) -> Question:
    """The hosts have it at hand; the peer has nothing like it."""
    return Question("7.1a", "latest of a ward", "/readings/latest", {"hospital": hospital, "ward": ward}, bounds=SMALL)


def patient_over_the_week(made: Made, random: Random, bucket_s: int) -> Question:
    number = random.randrange(len(made.patients))
    return Question(
        "7.1b", f"a patient's week by {bucket_s // 60} minutes", "/readings/buckets",
        {"patient": made.patients[number], "bucket_s": bucket_s, "limit": 10_000, **_span(START_US, END_US)},
        f"select handle, metric, instance, time_us // {bucket_s * 10**6} b, count(*) as count, min(value), max(value),"
        f" avg(value), max(time_us), arg_max(value, time_us) from readings where handle = {made.bedside[number]} and {USABLE}"
        f" and {WEEK} group by all order by all", "count", COMPLEX,
    )  # fmt: skip


def by_part_of_a_name(made: Made, random: Random) -> Question:
    part = random.choice(sorted(made.worn_by))[1:]  # which others may have in their names too
    handles = ",".join(str(handle) for name, worn in made.worn_by.items() if part in name for handle in worn)
    return Question(
        "7.1b", "search by part of a name", "/readings/search", {"q": part.upper(), "limit": 1000},
        f"select * from readings where handle in ({handles}) order by {ORDER} limit 1000", bounds=COMPLEX,
    )  # fmt: skip


def beyond_a_threshold(random: Random) -> Question:
    below = random.choice([72, 74, 76, 78, 80]) + 0.5
    return Question(
        "7.1b", "threshold over everything", "/readings/search",
        {"metric": "spo2", "below": below, "limit": 1000, "until": _time(END_US)},
        f"select * from readings where metric = 4 and value < {below} and {USABLE} and {WEEK} order by {ORDER} limit 1000",
        bounds=COMPLEX,
    )  # fmt: skip


def fleet_by_hour() -> Question:
    return Question(
        "7.1b", "week by hospital and hour", "/aggregates/fleet",
        {"bucket_s": 3600, "limit": 1_000_000, "format": "arrow", **_span(START_US, END_US)},
        "select hospital, metric, time_us // 3600000000 b, count(*) as count, min(value), max(value), avg(value), max(time_us),"
        f" arg_max(value, time_us) from readings where {USABLE} and quality & 48 = 0 and {WEEK} group by all order by all",
        "count", COMPLEX,
    )  # fmt: skip


def _span(from_us: int, until_us: int) -> dict[str, str]:
    return {"from": _time(from_us), "until": _time(until_us)}


def _time(time_us: int) -> str:
    moment = datetime.fromtimestamp(time_us // 10**6, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_us % 10**6:06d}Z"
