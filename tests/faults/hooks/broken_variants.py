"""Deliberately broken variants of the platform: each breaks one promise, so that the history checker is seen to go red.

Imported in a platform's processes by `fault_hooks`, when a test asks for one of `BROKEN`; never otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

Change = Callable[[Any], None]


def _acknowledge_before_the_stream(intake: Any) -> None:
    """A door that answers at once and publishes afterwards, once, as a careless one would."""

    async def publish(self: Any, subject: str, payload: bytes, message_id: str) -> int:
        async def later() -> None:
            await asyncio.sleep(0.2)
            await self._bus.publish(subject, payload, message_id)

        asyncio.create_task(later()).add_done_callback(lambda done: done.exception())
        return 1

    intake.StreamIntake._publish = publish


def _drop_what_the_lake_refused(host: Any) -> None:
    """A host whose first commit with readings meets a full disk, and that forgets what it could not write."""
    write = host.Host._write

    async def forgetful(self: Any, cuts: Any) -> None:
        if not getattr(host.Host, "has_forgotten", False) and any(tables for _, tables, _ in cuts):
            host.Host.has_forgotten = True
            raise OSError(28, "No space left on device")
        await write(self, cuts)

    host.Host._write = forgetful


def _leave_streams_unsynced(server: Any) -> None:
    """A stream server as it comes: acknowledged is what the operating system has, and the disk gets it later."""
    server._CONFIG = server._CONFIG.replace("sync_interval: always", 'sync_interval: "10m"')


def _leave_the_lake_unsynced(durable: Any) -> None:
    """A lake that is told done before its files and its log's entries are on disk; snapshots after it are."""
    durable.fsync = lambda _path: None


def _commit_without_position(lake: Any) -> None:
    """A host whose commits do not carry how far they go in the stream."""
    compare_and_set = lake.Lake._compare_and_set

    def commit(self: Any, actions: Any, advances: Any) -> int:
        kept = {shard: replace(a, to_sequence=a.from_sequence) for shard, a in advances.items()} if actions else advances
        return int(compare_and_set(self, actions, kept))

    lake.Lake._compare_and_set = commit
    check = lake._check

    def lenient(view: Any, advances: Any) -> None:
        at = view.positions
        check(view, {shard: replace(a, from_sequence=at.get(shard, 0)) for shard, a in advances.items()})

    lake._check = lenient


def _forget_duplicates(duplicates: Any) -> None:
    """A shard that remembers nothing of what it has seen."""

    def take(_self: Any, batch: Any) -> Any:
        return np.zeros(len(batch), dtype=np.bool_), np.zeros(len(batch), dtype=np.bool_)

    duplicates.RecentReadings.take = take


def _invent_a_reading(runner: Any) -> None:
    """A shard that stores each turn's last reading under the next number too."""
    table_of = runner.ShardRunner._table

    def table(self: Any, rows: Any, arrival_us: Any, clock: Any) -> Any:
        made = table_of(self, rows, arrival_us, clock)
        index = made.schema.get_field_index("sequence")
        last = made.slice(made.num_rows - 1)
        beyond = pc.cast(pc.add(last["sequence"], 1_000_000), last.schema.field(index).type)
        return pa.concat_tables([made, last.set_column(index, last.schema.field(index), beyond)])

    runner.ShardRunner._table = table


def _round_values(runner: Any) -> None:
    """A shard that keeps whole numbers only."""
    table_of = runner.ShardRunner._table
    runner.ShardRunner._table = lambda self, rows, arrival_us, clock: table_of(
        self, replace(rows, value=np.floor(rows.value)), arrival_us, clock
    )


def _leave_out_the_lake(store: Any) -> None:
    """Questions that forget what lies in the lake, and answer from the tails alone."""
    store.ReadingStore._read = lambda self, query, whole: self._fresh(query, whole)


def _answer_twice(store: Any) -> None:
    """Questions that give every row of the lake and the tails twice."""
    read = store.ReadingStore._read
    store.ReadingStore._read = lambda self, query, whole: pl.concat([read(self, query, whole)] * 2)


def _tell_alarms_otherwise(host: Any) -> None:
    """A host that tells every alarm a second time with another value, under a message id of its own."""
    notify = host.Host._notify

    def twice(self: Any, event: Any) -> None:
        notify(self, event)
        other = msgspec.structs.replace(event, value=(event.value or 0.0) + 1.0)
        subject = host.subjects.alarm(event.subject.hospital_id)
        self._announcer.tell(subject, msgspec.json.encode(other), f"{event.event_id}-again")

    host.Host._notify = twice


def _tell_no_alarms(host: Any) -> None:
    host.Host._notify = lambda _self, _event: None


def _show_no_alarms(projection: Any) -> None:
    """An alarm desk that moves on in the stream without entering what it read."""
    projection._project = lambda _connection, _events: None


BROKEN: Final[dict[str, tuple[str, Change]]] = {
    "acknowledges-early": ("runtime.intake", _acknowledge_before_the_stream),
    "drops-refused-commits": ("actors.host", _drop_what_the_lake_refused),
    "leaves-streams-unsynced": ("runtime.nats_server", _leave_streams_unsynced),
    "leaves-lake-unsynced": ("runtime.durable", _leave_the_lake_unsynced),
    "commits-without-position": ("runtime.lake", _commit_without_position),
    "forgets-duplicates": ("actors.duplicates", _forget_duplicates),
    "invents-readings": ("actors.shard_runner", _invent_a_reading),
    "rounds-values": ("actors.shard_runner", _round_values),
    "answers-without-the-lake": ("runtime.reading_store", _leave_out_the_lake),
    "answers-twice": ("runtime.reading_store", _answer_twice),
    "contradicts-itself": ("actors.host", _tell_alarms_otherwise),
    "tells-no-alarms": ("actors.host", _tell_no_alarms),
    "shows-no-alarms": ("runtime.sql.alarm_projection", _show_no_alarms),
}
