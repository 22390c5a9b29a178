"""Reads back what a platform answers for: the lake's files, REST, the alarm and reject streams, the alarm desk."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import numpy as np
import polars as pl

from domain import subjects
from domain.alarms import AlarmEvent
from domain.bus_rights import OBSERVER
from domain.errors import IntegrityViolation, RejectedInput
from domain.frames import decode_frame
from domain.instants import to_rfc3339
from domain.messages import Reject
from domain.metrics import metric_of
from runtime.bus import Bus
from runtime.follower import StreamMessage
from scenarios.ledger import MAX_SEQUENCE, Keys, keys_of_readings
from scenarios.stored import opened
from tests.faults.checker import Observed, Told
from tests.faults.history import READINGS, History
from tests.faults.senders import HOSPITALS
from tests.faults.stand import Stand
from tests.running_platform import wait_until
from tests.waiting import until

_MARGIN_US: Final = 86_400_000_000  # a sender whose clock is off states other times
_MOST_ROWS: Final = 1_000_000
_READ_S: Final = 30.0


async def observe(stand: Stand, history: History, since: dict[str, int]) -> Observed:
    """Everything about the run of `history`. `since`: where the streams stood when it began (`positions`)."""
    told = await told_alarms(stand, since)
    bus = await Bus.connect(stand.bus_url, stand.running.connection.bus_key(OBSERVER), "history checker")
    try:
        rejects = await _read_stream(bus, subjects.REJECTS_STREAM, subjects.REJECTS_SUBJECTS, since)
    finally:
        await bus.close()
    stored = await asyncio.to_thread(lake_rows, stand.lake_dir, history)
    answered = await asyncio.to_thread(rest_rows, stand, history)
    shown = await asyncio.to_thread(_shown, stand, {one.event.alarm_id for one in told})
    return Observed(stored, answered, _rejected(rejects, history.base), told, shown)


async def told_alarms(stand: Stand, since: dict[str, int]) -> list[Told]:
    """What has been notified since, in order."""
    bus = await Bus.connect(stand.bus_url, stand.running.connection.bus_key(OBSERVER), "history checker")
    try:
        alarms = await _read_stream(bus, subjects.ALARMS_STREAM, subjects.ALARMS_SUBJECTS, since)
    finally:
        await bus.close()
    return [Told(msgspec.json.decode(m.payload, type=AlarmEvent), m.stored_us) for m in alarms]


async def positions(stand: Stand) -> dict[str, int]:
    """Last sequence of the streams that `observe` reads."""
    bus = await Bus.connect(stand.bus_url, stand.running.connection.bus_key(OBSERVER), "history checker")
    try:
        return {
            name: (await bus.stream_state(name)).last_sequence for name in (subjects.ALARMS_STREAM, subjects.REJECTS_STREAM)
        }
    finally:
        await bus.close()


def lake_rows(lake_dir: Path, history: History) -> pl.DataFrame:
    """Rows of the run as they lie in the files of the newest version, past every query path that could tidy them up."""
    sent = history.frame()
    lake = opened(lake_dir)
    paths = lake.state().files["path"].to_list()
    if not paths or sent.is_empty():
        return READINGS.to_frame()
    rows = lake.scan(paths).filter(
        pl.col("source").is_in(sent["source"].unique().cast(pl.Int64).implode()),
        pl.col("sequence").is_between(history.base, min(history.until, history.base + MAX_SEQUENCE), closed="left"),
    )
    return rows.select(*READINGS).collect().cast(dict(READINGS))


def rest_rows(stand: Stand, history: History) -> pl.DataFrame:
    """What a range query over everything that was sent answers."""
    sent = history.frame()
    if sent.is_empty():
        return READINGS.to_frame()
    span = {
        "from": to_rfc3339(sent.select(pl.col("time_us").min()).item()),
        "until": to_rfc3339(sent.select(pl.col("time_us").max() + 1).item()),
    }
    params: dict[str, Any] = {"hospital": list(HOSPITALS), "limit": _MOST_ROWS, **span}

    def ask() -> bytes | None:
        with stand.running.http() as http:
            answer = http.get("/readings", params=params, headers={"Accept": "application/vnd.apache.arrow.stream"})
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:  # said so, and no wrong answer: ask again
            return None
        return answer.raise_for_status().content

    rows = pl.read_ipc_stream(wait_until(ask, _READ_S))
    return _as_stored(rows).filter(
        pl.col("source").is_in(sent["source"].unique().implode()),
        pl.col("sequence").is_between(history.base, history.until, closed="left"),
    )


def _as_stored(rows: pl.DataFrame) -> pl.DataFrame:
    """Metric names become ids again, and instants microseconds."""
    names = rows["metric"].unique().to_list()
    ids = rows["metric"].replace_strict(names, [metric_of(name).id for name in names], return_dtype=pl.UInt16)
    return (
        rows.with_columns(ids.alias("metric"), pl.col("time").dt.epoch("us").alias("time_us"))
        .select(*READINGS)
        .cast(dict(READINGS))
    )


def _shown(stand: Stand, alarm_ids: set[str]) -> frozenset[str]:
    with stand.running.http() as http:
        return frozenset(alarm_id for alarm_id in alarm_ids if http.get(f"/alarms/{alarm_id}").status_code == 200)


def _rejected(messages: list[StreamMessage], base: int) -> Keys:
    keys = [np.empty(0, np.uint64)]
    for message in messages:
        try:
            keys.append(
                keys_of_readings(decode_frame(msgspec.json.decode(message.payload, type=Reject).payload).readings, base)
            )
        except (RejectedInput, IntegrityViolation):
            continue  # not a frame
    return np.concatenate(keys)


async def _read_stream(bus: Bus, name: str, wanted: tuple[str, ...], since: dict[str, int]) -> list[StreamMessage]:
    first, last = since[name] + 1, (await bus.stream_state(name)).last_sequence
    if last < first:
        return []
    found: list[StreamMessage] = []
    follower = await bus.follow(name, list(wanted), first, found.append)
    try:
        await until(lambda: found and found[-1].sequence >= last, _READ_S)
    finally:
        await follower.stop()
    return found
