"""A host: some shards, their turns, and what follows from them. Asyncio, no Ray: `actors.shell` puts it in a process.

Loop: wait for messages -> one bounded turn a shard -> publish alarms and refusals -> keep rows in the hot tail.
Beside it, off the loop: commits to the lake with the stream position, then snapshots of what is committed.

Failure policy. Bad input: to the rejects, with its reason. An unexpected exception in a turn: logged once with ids,
the shard is restored from its snapshot and replayed, suspects taken one at a time; a message that breaks its turn
twice is rejected and the host goes on. A lost shard (a higher epoch in the lake): dropped without another write.
Delivery: every stream message takes effect once on state and lake; alarm events are published at least once under
deterministic ids, so they are stored once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pyarrow as pa

from actors.announcer import Announcer
from actors.handing import Handing
from actors.host_metrics import HostMetrics
from actors.lake_room import LakeRoom
from actors.mailboxes import Mailboxes
from actors.post import Post
from actors.progress import Progress
from actors.restoration import Restoration
from actors.shard_runner import Refusal, ShardRunner, TurnResult
from actors.ticker import Ticker
from domain import subjects
from domain.alarms import AlarmEvent
from domain.errors import IntegrityViolation
from domain.messages import HostHeartbeat, Reject, encode
from domain.ports import Clock
from runtime.bus import Bus
from runtime.follower import Follower, StreamMessage
from runtime.lake import Lake
from runtime.lake_schema import ROWS, Advance, Fenced, PositionMoved
from runtime.snapshots import SnapshotStore
from runtime.stamps import TurnStamps
from runtime.tail import HotTail
from runtime.tasks import end

logger = logging.getLogger(__name__)

_INBOX_BYTES: Final = 64 * 2**20  # a shard that lags further lets the stream hold the rest
_RETRY_S: Final = 0.5
_REJECT_BYTES: Final = 4 * 2**20  # any frame we write fits
_NO_ROWS: Final = ROWS.empty_table()


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """How a host paces itself; see `runtime.settings.HostSettings` and `LakeSettings`."""

    turn_readings: int = 50_000
    flush_interval_s: float = 5.0
    flush_rows: int = 500_000
    snapshot_interval_s: float = 15.0
    live_horizon_s: float = 60.0
    max_uncommitted_rows: int = 5_000_000
    progress_interval_s: float = 0.05


class Host:
    """See module. `start`, then `acquire` and `release` shards, then `stop`."""

    def __init__(
        self, name: str, *, bus: Bus, lake: Lake, snapshots: SnapshotStore, clock: Clock, policy: HostPolicy, pid: int
    ) -> None:
        self.name = name
        self._pid = pid
        self._bus = bus
        self._lake = lake
        self._snapshots = snapshots
        self._restoration = Restoration(bus, lake, snapshots, policy.live_horizon_s)
        self._clock = clock
        self._policy = policy
        self._tail = HotTail()
        self._runners: dict[int, ShardRunner] = {}
        self._stamps = TurnStamps()
        self._mailboxes = Mailboxes(name, bus, self._runners, self._tail, self._stamps)
        self.post = Post(bus, self._mailboxes)
        self._work = asyncio.Event()
        self._flush = asyncio.Event()
        self._committing = asyncio.Lock()
        self._lake_room = LakeRoom(name, clock, policy.max_uncommitted_rows)
        self._announcer = Announcer(bus)
        self._ticker = Ticker(bus, clock, self._runners)
        self._handing = Handing(snapshots, lambda runner: self._runners.get(runner.shard) is runner)
        self._progress = Progress(name, bus, self._runners, self._uncommitted_rows, policy.progress_interval_s)
        self._tasks: list[asyncio.Task[None]] = []
        self._jobs: set[asyncio.Task[None]] = set()
        self.loop_us = clock.now_us()
        self.metrics = HostMetrics()

    # -- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        for loop in (self._announcer.run, self._turns, self._ticker.run, self._progress.run, self._commits):
            self._tasks.append(asyncio.create_task(loop(), name=f"{self.name}.{loop.__qualname__}"))

    async def stop(self) -> None:
        """Commit and snapshot what is held, then let go of everything."""
        for shard in list(self._runners):
            await self.release(shard)
        await end(*self._tasks, *self._jobs)
        await self._ticker.stop()

    async def acquire(self, shard: int, epoch: int) -> None:
        """Hold `shard` under `epoch`: fence former holders, restore, and follow its stream from there."""
        await asyncio.to_thread(self._lake.claim, shard, epoch)
        await self._restore(shard, epoch, {})
        logger.info("shard acquired", extra={"shard": shard, "epoch": epoch, "host": self.name})

    async def release(self, shard: int) -> None:
        """Stop following `shard`, commit and snapshot what it has applied, and forget it."""
        runner = self._runners.get(shard)
        if runner is None:
            return
        if runner.follower is not None:
            await runner.follower.stop()
        try:
            await self._commit(snapshot=True)
        finally:  # what could not be written is still in the stream, for whoever holds the shard next
            await self._drop(runner)

    def heartbeat(self) -> HostHeartbeat:
        """What the supervisor is told. Safe to call from another thread."""
        return HostHeartbeat(
            host=self.name, pid=self._pid, at_us=self._clock.now_us(), loop_us=self.loop_us,
            full_since_us=self._lake_room.full_since_us, shards=[runner.held() for runner in list(self._runners.values())],
        )  # fmt: skip

    # -- shards ----------------------------------------------------------------------------------------------------

    async def _restore(self, shard: int, epoch: int, suspects: dict[int, int]) -> None:
        restored = await self._restoration.restore(shard, epoch, suspects)
        runner = restored.runner
        for event in restored.alarms:
            self._notify(event)
        runner.snapshot_us = self._clock.now_us()
        follower = await self._follow(runner)
        if not await self._makes_way(shard, epoch):
            await follower.stop()
            return
        runner.follower = follower
        self._tail.hold(shard, runner.committed)
        self._runners[shard] = runner
        await self._mailboxes.open(runner)
        self._work.set()

    async def _follow(self, runner: ShardRunner) -> Follower:
        """Let a runner have all behind what it has applied, of the subjects it wants."""

        def receive(message: StreamMessage) -> None:
            runner.receive(message)
            if runner.inbox_bytes > _INBOX_BYTES and runner.follower is not None:
                runner.follower.pause()
            self._work.set()

        runner.followed = runner.wanted()
        return await self._bus.follow(subjects.READINGS_STREAM, runner.followed, runner.applied + 1, receive)

    async def _hand_over(self, runner: ShardRunner, result: TurnResult) -> None:
        """What a turn brought of hospitals that go to another shard, or come from one."""
        for number, sequence, state in result.given:
            self._run(self._handing.give(runner, number, sequence, state))
        if runner.awaited is not None:
            self._run(self._handing.fetch(runner, runner.awaited, self._work.set))
        if runner.wanted() != runner.followed:
            await self._follow_others(runner)

    async def _follow_others(self, runner: ShardRunner) -> None:
        """A hospital comes from another shard, or has come: take from here on the messages that are wanted now."""
        if runner.follower is not None:
            await runner.follower.stop()
        runner.forget_inbox()
        try:
            runner.follower = await self._follow(runner)
        except Exception:  # whatever the bus has: it is held no more, so the supervisor grants it again
            logger.exception("a shard's stream could not be followed", extra={"shard": runner.shard, "host": self.name})
            await self._drop(runner)

    async def _makes_way(self, shard: int, epoch: int) -> bool:
        """Whether `epoch` is to hold the shard: an older one goes; a newer one was granted while a replay was under way."""
        while (former := self._runners.get(shard)) is not None:
            if former.epoch > epoch:
                return False
            if former.follower is not None:
                await former.follower.stop()
            await self._drop(former)
        return True

    async def _drop(self, runner: ShardRunner) -> None:
        if self._runners.get(runner.shard) is not runner:
            return  # it was acquired anew meanwhile
        del self._runners[runner.shard]
        self._tail.forget(runner.shard)
        await self._mailboxes.close(runner.shard)

    async def _turns(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            for runner in list(self._runners.values()):
                if runner.inbox and runner.awaited is None:
                    await self._announcer.room()
                    await self._lake_room.wait(self._kept_rows, self._waits_for_the_lake)
                    await self._turn(runner)
                    await asyncio.sleep(0)  # questions and heartbeats get their turn between shards
                self.loop_us = self._clock.now_us()  # at each: a round through full inboxes takes long, and is no standstill

    def _kept_rows(self) -> int:
        return sum(runner.segment_rows for runner in self._runners.values())

    def _waits_for_the_lake(self) -> None:
        self._flush.set()
        self.loop_us = self._clock.now_us()  # it waits, and is not stuck

    async def _turn(self, runner: ShardRunner) -> None:
        started_us, after = self._clock.now_us(), runner.applied
        try:
            result = runner.turn(self._policy.turn_readings)
        except Exception:  # the policy above: restore and replay, whatever it was
            logger.exception("a turn broke", extra={"shard": runner.shard, "after_sequence": runner.applied})
            runner.blame()
            await self._replay(runner)
            return
        for sequence, table in result.rows:
            self._tail.append(runner.shard, sequence, table)
        self._tail.append(runner.shard, runner.applied, _NO_ROWS)  # what brought no rows is covered too
        for event in result.alarms:
            self._notify(event)
        for refusal in result.refusals:
            self._refuse(runner.shard, refusal)
        await self._hand_over(runner, result)
        if runner.segment_rows >= self._policy.flush_rows:
            self._flush.set()
        if runner.follower is not None and runner.inbox_bytes < _INBOX_BYTES // 2:
            runner.follower.resume()
        if runner.inbox and runner.awaited is None:
            self._work.set()
        await self._mailboxes.open(runner)
        ended_us = self._clock.now_us()
        self._stamps.note(runner.shard, after, runner.applied, started_us, ended_us, result.readings)
        self.metrics.turn(result, started_us, ended_us, runner.high_water_us)

    def _run(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    async def _replay(self, runner: ShardRunner) -> None:
        await self._drop(runner)  # at once: a commit that waits for its turn must not snapshot a cell that is half changed
        if runner.follower is not None:
            await runner.follower.stop()
        async with self._committing:
            try:
                await self._restore(runner.shard, runner.epoch, runner.suspects)
            except Exception:  # whatever it was: it is held no more, so the supervisor grants it again, and the turns go on
                logger.exception("a shard could not be restored", extra={"shard": runner.shard, "host": self.name})

    # -- what turns bring ------------------------------------------------------------------------------------------

    def _notify(self, event: AlarmEvent) -> None:
        self._announcer.tell(subjects.alarm(event.subject.hospital_id), msgspec.json.encode(event), event.event_id)

    def _refuse(self, shard: int, refusal: Refusal) -> None:
        part = f"-{refusal.part}" if refusal.part else ""
        reject_id = f"host-{shard}-{refusal.sequence}-{refusal.reason}{part}"
        reject = Reject(
            reject_id=reject_id, reason=refusal.reason, detail=refusal.detail, door="host", principal=refusal.principal,
            hospital_id=refusal.hospital_id, received_us=self._clock.now_us(), payload=refusal.payload[:_REJECT_BYTES],
            topic=refusal.subject,
        )  # fmt: skip
        self._announcer.tell(subjects.reject(refusal.hospital_id), encode(reject), reject_id)

    # -- lake and snapshots ----------------------------------------------------------------------------------------

    async def _commits(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._policy.flush_interval_s):
                    await self._flush.wait()
            self._flush.clear()
            try:
                await self._commit()
            except Exception as error:  # noqa: BLE001 (a full or failing disk: nothing is lost, the stream holds it; try again)
                self._lake_room.failed(error)
                await asyncio.sleep(_RETRY_S)
            else:
                self._lake_room.worked()

    async def _commit(self, *, snapshot: bool = False) -> None:
        """Commit each shard's rows with its position; then snapshot the shards whose snapshot is due, or all."""
        async with self._committing:
            now_us = self._clock.now_us()
            cuts = []
            runners = list(self._runners.values())
            due = runners if snapshot else self._due_for_snapshot(now_us)
            for runner in runners:
                tables = runner.cell.snapshot() if runner in due and not runner.giving else None
                cuts.append((runner, runner.take_segment(), runner.applied, tables))
            told = self._announcer.told
            await self._write([(runner, rows, applied) for runner, rows, applied, _ in cuts])
            if any(tables is not None for *_, tables in cuts):
                await self._announcer.all_kept(told)  # a snapshot must not be ahead of what it made known
            for runner, _, applied, tables in cuts:
                if tables is not None and self._runners.get(runner.shard) is runner:
                    await self._save(runner, applied, tables)
                    runner.snapshot_us = now_us

    async def _save(self, runner: ShardRunner, applied: int, tables: dict[str, pa.Table]) -> None:
        """Snapshot a shard; one that another host has snapshot since is lost, though it brought no rows to be fenced by."""
        try:
            await asyncio.to_thread(self._snapshots.save, runner.shard, runner.epoch, applied, tables)
        except IntegrityViolation:
            await self._lose(runner)

    def _due_for_snapshot(self, now_us: int) -> list[ShardRunner]:
        """Those whose time has come, the oldest first: a few at a time, because the copy holds up the shards' turns."""
        policy = self._policy
        interval_us = policy.snapshot_interval_s * 1e6  # either way: a clock that was set back must not put them off
        due = [r for r in self._runners.values() if abs(now_us - r.snapshot_us) >= interval_us]
        most = math.ceil(len(self._runners) * policy.flush_interval_s / policy.snapshot_interval_s)
        return sorted(due, key=lambda runner: runner.snapshot_us)[:most]

    async def _write(self, cuts: list[tuple[ShardRunner, list[pa.Table], int]]) -> None:
        cuts = [cut for cut in cuts if cut[1]]
        if not cuts:
            return
        rows = pa.concat_tables([table for _, tables, _ in cuts for table in tables])
        advances = {
            runner.shard: Advance(runner.committed, max(applied, runner.committed), runner.epoch) for runner, _, applied in cuts
        }
        started_us = self._clock.now_us()
        self._lake_room.writing = rows.num_rows
        try:
            await asyncio.to_thread(self._lake.commit, rows, advances)
        except (Fenced, PositionMoved) as error:
            lost = next(runner for runner, _, _ in cuts if runner.shard == error.shard)
            await self._lose(lost)
            await self._write([cut for cut in cuts if cut[0] is not lost])  # a snapshot of theirs may come next
            return
        except Exception:
            for runner, tables, _ in cuts:  # back to the front, in order, for the next try
                runner.segment[:0] = tables
                runner.segment_rows += sum(table.num_rows for table in tables)
            raise
        finally:
            self._lake_room.writing = 0
        for runner, _, applied in cuts:
            runner.committed = max(applied, runner.committed)
            self._tail.committed(runner.shard, runner.committed, self._clock.now_us())
        self._lake_room.committed()
        self.metrics.commit(rows.num_rows, self._clock.now_us() - started_us)

    def _uncommitted_rows(self) -> int:
        return self._lake_room.writing + sum(runner.segment_rows for runner in self._runners.values())

    async def _lose(self, runner: ShardRunner) -> None:
        """Another host holds the shard now. Drop it unwritten."""
        logger.warning("shard lost to another host", extra={"shard": runner.shard, "host": self.name})
        if runner.follower is not None:
            await runner.follower.stop()
        await self._drop(runner)
