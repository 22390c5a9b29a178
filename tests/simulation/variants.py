"""Platforms that are broken on purpose, one a promise or more: what the checker must see.

Each takes a monkeypatch, breaks something, and names the promises that do not survive it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from actors.announcer import Announcer
from actors.duplicates import RecentReadings
from actors.hand_overs import HandOvers
from actors.host import Host
from actors.restoration import Restoration, Restored
from actors.shard import Effects, ShardCell
from actors.stream_clock import StreamClock
from domain.messages import HandOver
from domain.ports import Receipt
from runtime.intake import StreamIntake
from runtime.intake_group import Submission
from tests.simulation.memory_lake import MemoryLake

MOST_SEEDS: Final = 150  # by then each has shown itself; most do within a few
Variant = Callable[[pytest.MonkeyPatch], set[str]]


def an_intake_that_answers_before_the_stream_has_it(patch: pytest.MonkeyPatch) -> set[str]:
    publish, guesses = StreamIntake._publish, itertools.count(1)

    async def hopeful(self: StreamIntake, subject: str, payload: bytes, message_id: str) -> int:
        if subject.startswith("once."):
            return await publish(self, subject, payload, message_id)  # or the ledger reads back something else
        task = asyncio.ensure_future(publish(self, subject, payload, message_id))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.sleep(0)
        return next(guesses)

    patch.setattr(StreamIntake, "_publish", hopeful)
    return {
        "acknowledged_is_stored_or_rejected", "receipts_name_the_frame", "events_are_in_the_stream", "refused_is_kept",
    }  # fmt: skip


def receipts_that_are_one_too_high(patch: pytest.MonkeyPatch) -> set[str]:
    stored = Submission.stored
    patch.setattr(
        Submission, "stored", lambda self, r: stored(self, Receipt(r.shard, r.stream_sequence + 1, r.readings))
    )  # fmt: skip
    return {"receipts_name_the_frame"}


def a_lake_that_forgets_its_position(patch: pytest.MonkeyPatch) -> set[str]:
    patch.setattr(MemoryLake, "advance", lambda *_: None)
    patch.setattr(MemoryLake, "check", lambda *_: None)
    return {"nothing_is_stored_twice", "the_lake_is_that_of_a_run_without_faults"}


def a_lake_that_fences_nobody(patch: pytest.MonkeyPatch) -> set[str]:
    patch.setattr(MemoryLake, "check", lambda *_: None)
    return {"nothing_is_stored_twice"}


def a_lake_that_rounds(patch: pytest.MonkeyPatch) -> set[str]:
    rows = MemoryLake.rows

    def rounded(self: MemoryLake) -> pa.Table:
        table = rows(self)
        value = pa.array(np.round(table["value"].to_numpy() / 10) * 10)
        return table.set_column(table.column_names.index("value"), table.schema.field("value"), value)

    patch.setattr(MemoryLake, "rows", rounded)
    return {"nothing_is_invented", "acknowledged_is_stored_or_rejected"}


def a_host_that_begins_at_the_streams_end(patch: pytest.MonkeyPatch) -> set[str]:
    restore = Restoration.restore

    async def forgetful(self: Restoration, shard: int, epoch: int, suspects: dict[int, int]) -> Restored:
        restored = await restore(self, shard, epoch, suspects)
        if epoch > 1:
            restored.runner.applied = (await self._bus.stream_state("READINGS")).last_sequence
        return restored

    patch.setattr(Restoration, "restore", forgetful)
    return {"acknowledged_is_stored_or_rejected", "state_is_that_of_a_run_without_faults"}


def a_host_that_takes_no_snapshot_back(patch: pytest.MonkeyPatch) -> set[str]:
    patch.setattr(ShardCell, "restore", lambda *_: None)
    return {"state_is_that_of_a_run_without_faults", "rejects_are_those_of_a_run_without_faults"}


def doubles_that_are_not_dropped(patch: pytest.MonkeyPatch) -> set[str]:
    patch.setattr(RecentReadings, "take", lambda _, batch: (np.zeros(len(batch), bool), np.zeros(len(batch), bool)))
    return {"nothing_is_stored_twice"}


def keys_that_make_new_messages(patch: pytest.MonkeyPatch) -> set[str]:
    alone, number = StreamIntake._store_alone, itertools.count()
    patch.setattr(
        StreamIntake, "_store_alone",
        lambda self, who, batch, name, at_us: alone(self, who, batch, f"{name}-{next(number)}", at_us),
    )  # fmt: skip
    return {"a_key_is_one_request"}


def snapshots_ahead_of_what_they_made_known(patch: pytest.MonkeyPatch) -> set[str]:
    async def at_once(*_: Any) -> None:
        pass

    async def slow(self: Announcer, window: list[Any]) -> None:
        await asyncio.sleep(2.5)
        await publish(self, window)

    publish = Announcer._publish
    patch.setattr(Announcer, "all_kept", at_once)
    patch.setattr(Announcer, "_publish", slow)
    return {"alarms_are_those_of_a_run_without_faults"}


def alarms_that_speak_of_the_weather(patch: pytest.MonkeyPatch) -> set[str]:
    notify, number = Host._notify, itertools.count()
    patch.setattr(
        Host, "_notify", lambda self, event: notify(self, msgspec.structs.replace(event, text=f"{next(number)}"))
    )  # fmt: skip
    return {"an_event_id_says_one_thing", "alarms_are_those_of_a_run_without_faults"}


def alarms_under_another_id_each_time(patch: pytest.MonkeyPatch) -> set[str]:
    notify, number = Host._notify, itertools.count()
    patch.setattr(
        Host, "_notify", lambda self, event: notify(self, msgspec.structs.replace(event, event_id=f"{next(number)}"))
    )  # fmt: skip
    return {"an_alarm_starts_once"}


def a_host_that_snapshots_what_it_could_not_commit(patch: pytest.MonkeyPatch) -> set[str]:
    write = Host._write

    async def careless(self: Host, cuts: Any) -> None:
        with contextlib.suppress(OSError):
            await write(self, cuts)

    patch.setattr(Host, "_write", careless)
    return {"acknowledged_is_stored_or_rejected"}


def a_cell_that_forgets_in_a_snapshot_that_the_clock_was_set_back(patch: pytest.MonkeyPatch) -> set[str]:
    restore = StreamClock.restore

    def forgetful(self: StreamClock, table: pa.Table) -> None:
        restore(self, table)
        self.ahead_us = 0

    patch.setattr(StreamClock, "restore", forgetful)
    return {"state_is_that_of_a_run_without_faults"}


def replays_that_bow_to_nobody(patch: pytest.MonkeyPatch) -> set[str]:
    async def always(*_: Any) -> bool:
        return True

    patch.setattr(Host, "_makes_way", always)
    return {"a_shard_has_one_holder"}


def a_shard_that_keeps_what_it_gives_away(patch: pytest.MonkeyPatch) -> set[str]:
    give = ShardCell._hand_over

    def keeping(self: ShardCell, message: HandOver) -> Effects:
        before = self.snapshot()
        effects = give(self, message)
        if effects.given is not None:
            self._take(before)
        return effects

    patch.setattr(ShardCell, "_hand_over", keeping)
    patch.setattr(ShardCell, "_settle", lambda self, message: self.hand_overs.settle(message))
    return {"a_hospital_is_in_one_shard"}


def a_shard_that_takes_only_its_own_messages(patch: pytest.MonkeyPatch) -> set[str]:
    patch.setattr(HandOvers, "arrived_from", lambda *_: set())
    return {"acknowledged_is_stored_or_rejected"}


ALL: Final[tuple[Variant, ...]] = (
    an_intake_that_answers_before_the_stream_has_it, receipts_that_are_one_too_high, a_lake_that_forgets_its_position,
    a_lake_that_fences_nobody, a_lake_that_rounds, a_host_that_begins_at_the_streams_end,
    a_host_that_takes_no_snapshot_back, doubles_that_are_not_dropped, keys_that_make_new_messages,
    snapshots_ahead_of_what_they_made_known, alarms_that_speak_of_the_weather, alarms_under_another_id_each_time,
    a_host_that_snapshots_what_it_could_not_commit, replays_that_bow_to_nobody,
    a_cell_that_forgets_in_a_snapshot_that_the_clock_was_set_back,
    a_shard_that_keeps_what_it_gives_away, a_shard_that_takes_only_its_own_messages,
)  # fmt: skip
