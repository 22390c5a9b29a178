"""The Intake's lanes: in each, submissions wait until there is room for them and then gather into group commits.

While nothing of a lane is on its way, a submission is committed at once, with all others of the same turn of the event
loop: an idle door adds no delay. While a group is on its way, the next one gathers, for at most `gather_ms` or until
`gather_readings`, or until the way is free; at most two groups are on their way, so when the stream slows down, groups
grow instead of queues, up to about 150,000 readings: whatever a lane has to send, little of it is in front of another
lane's at the stream. Groups of one lane do not hold up those of another.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from domain.errors import Unavailable
from domain.thing_models import Lane
from runtime.admission import Admission
from runtime.intake_group import Submission

logger = logging.getLogger(__name__)

_GROUPS_ON_THEIR_WAY: Final = 2
_GROUP_READINGS: Final = 150_000  # no more in one: what the stream takes in a tenth of a second
_LOOK_AGAIN_S: Final = 0.25
_SAY_AGAIN_S: Final = 60.0
# of what may be in memory: what a device says itself finds room where gateways have taken all of theirs
_HELD_SHARE: Final = {Lane.DIRECT: 1.0, Lane.PRIORITY: 0.8, Lane.BULK: 0.5}
_WAITING_SHARE: Final = {Lane.DIRECT: 1.0, Lane.PRIORITY: 0.8, Lane.BULK: 0.8}


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """As `runtime.settings.IntakeSettings`."""

    gather_ms: float = 4.0
    gather_readings: int = 20_000
    max_pending_readings: int = 2_000_000
    ack_timeout_s: float = 10.0


@dataclass(slots=True)
class IntakeCounters:
    """Running totals since the start; `held_readings` (being stored) and `waiting_readings` (for room) are gauges."""

    submissions: int = 0
    readings: int = 0
    frames: int = 0
    retries: int = 0
    unavailable: int = 0
    rejects: int = 0
    held_readings: int = 0
    waiting_readings: int = 0
    waited: int = 0  # submissions that found no room at first
    repeated: int = 0  # messages that were stored before, and were answered as then


class GroupCommit:
    """One lane's group commit. `store` sends a group and returns once its fate is known; `arrived` is told its rows."""

    def __init__(
        self,
        limits: IntakeLimits,
        store: Callable[[list[Submission]], Coroutine[Any, Any, None]],
        arrived: Callable[[int], None],
    ) -> None:
        self._limits = limits
        self._store = store
        self._tell_arrived = arrived
        self._gathering: deque[Submission] = deque()
        self._gathered_rows = 0
        self._on_their_way: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.is_due = False
        self._is_called = False

    def gather(self, submission: Submission) -> None:
        """Take a submission; it leaves with the next group."""
        self._gathering.append(submission)
        self._gathered_rows += submission.rows
        if not self._on_their_way:
            if not self._is_called:
                self._is_called = True
                asyncio.get_running_loop().call_soon(self._commit_when_called)
        elif self._gathered_rows >= self._limits.gather_readings:
            self._on_timer()
        elif self._timer is None and not self.is_due:
            self._timer = asyncio.get_running_loop().call_later(self._limits.gather_ms / 1000, self._on_timer)

    async def drain(self) -> None:
        """Return once all that was gathered has arrived."""
        while self._gathering or self._on_their_way:
            if self._gathering and len(self._on_their_way) < _GROUPS_ON_THEIR_WAY:
                self._commit()
            await asyncio.wait(self._on_their_way)

    def _commit_when_called(self) -> None:
        self._is_called = False
        self._on_timer()

    def _on_timer(self) -> None:
        self.is_due = bool(self._gathering)
        if self.is_due and len(self._on_their_way) < _GROUPS_ON_THEIR_WAY:
            self._commit()

    def _commit(self) -> None:
        """Send what has gathered on its way, or as much of it as makes a group; the rest is due then."""
        group, rows = [], 0
        while self._gathering and rows < _GROUP_READINGS:
            group.append(self._gathering.popleft())
            rows += group[-1].rows
        self._gathered_rows -= rows
        self.is_due = bool(self._gathering)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        task = asyncio.create_task(self._store(group))
        self._on_their_way.add(task)
        task.add_done_callback(lambda done: self._arrived(done, rows))

    def _arrived(self, task: asyncio.Task[None], rows: int) -> None:
        self._on_their_way.discard(task)
        self._tell_arrived(rows)
        if self._gathering and (self.is_due or not self._on_their_way):
            self._commit()


class Waiting:
    """Submissions that there is no room for yet: first come, first taken within a lane and shard, shards in turn.

    One whose sender is gone (its future cancelled) is never taken.
    """

    def __init__(self) -> None:
        self._queues: dict[Lane, dict[int, deque[Submission]]] = {lane: {} for lane in Lane}
        self.rows = 0

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def has(self, lane: Lane, shard: int) -> bool:
        """Whether somebody waits there, so that who comes now waits too."""
        return shard in self._queues[lane]

    def add(self, submission: Submission) -> None:
        submission.is_waiting = True
        self.rows += submission.rows
        self._queues[submission.lane].setdefault(submission.shard, deque()).append(submission)

    def give_up(self, submission: Submission) -> bool:
        """Take it out of the count, and out of its queue when its turn comes; False when it is not waiting any more."""
        if not submission.is_waiting:
            return False
        submission.stop_waiting()
        submission.parts = ()
        self.rows -= submission.rows
        return True

    def release(self, has_room: Callable[[Submission], bool], gather: Callable[[Submission], None]) -> None:
        """Gather those for which there is room, priority first."""
        for queues in self._queues.values():
            open_shards = list(queues)
            while open_shards:
                open_shards = [shard for shard in open_shards if self._release_next(queues, shard, has_room, gather)]

    def _release_next(
        self, queues: dict[int, deque[Submission]], shard: int, has_room: Callable[[Submission], bool],
        gather: Callable[[Submission], None],
    ) -> bool:  # fmt: skip
        """Whether the first of a shard went, and another waits behind it."""
        queue = queues[shard]
        while queue and (not queue[0].is_waiting or queue[0].future.cancelled()):
            self.give_up(queue.popleft())
        goes = bool(queue) and has_room(queue[0])
        if goes:
            submission = queue.popleft()
            submission.stop_waiting()
            self.rows -= submission.rows
            gather(submission)
        if not queue:
            del queues[shard]
        return goes and bool(queue)


class Lanes:
    """What submissions go through: they gather at once, or wait until there is room here and before their host."""

    def __init__(
        self, limits: IntakeLimits, admission: Admission, store: Callable[[list[Submission]], Coroutine[Any, Any, None]],
        counters: IntakeCounters,
    ) -> None:  # fmt: skip
        self._limits = limits
        self._admission = admission
        self._admission.on_progress = self._release
        self._counters = counters
        self._commits = {lane: GroupCommit(limits, store, self._arrived) for lane in Lane}
        self.waiting = Waiting()
        self._look_again: asyncio.TimerHandle | None = None
        self._said_s = float("-inf")  # when it was last said that senders wait
        self._is_closed = False

    def accept(self, submission: Submission) -> None:
        """Take a submission: it gathers, or waits until there is room, or is refused."""
        if submission.future.cancelled():
            return  # its sender is gone
        if self._is_closed:
            submission.failed(Unavailable("the door is closing: send again to another, or later"))
        elif self.waiting.has(submission.lane, submission.shard) or not self._has_room(submission):
            self._hold(submission)
        else:
            self._gather(submission)

    def _has_room(self, submission: Submission) -> bool:
        held = self._counters.held_readings
        if held and held + submission.rows > self._most(submission.lane, _HELD_SHARE):
            return False
        return self._is_closed or self._admission.has_room(submission.lane, submission.shard)

    def _most(self, lane: Lane, share: dict[Lane, float]) -> float:
        """How many readings may be in memory for one more of `lane` to be taken."""
        return self._limits.max_pending_readings * share[lane]

    def _gather(self, submission: Submission) -> None:
        self._counters.held_readings += submission.rows
        for shard, _, rows in submission.parts:
            self._admission.taken(shard, rows)
        self._commits[submission.lane].gather(submission)

    def _arrived(self, rows: int) -> None:
        self._counters.held_readings -= rows
        self._release()

    def _hold(self, submission: Submission) -> None:
        self._counters.waited += 1
        if self.waiting.rows and self.waiting.rows + submission.rows > self._most(submission.lane, _WAITING_SHARE):
            self._refuse(submission)
            return
        self.waiting.add(submission)
        self._counters.waiting_readings = self.waiting.rows
        loop = asyncio.get_running_loop()
        submission.deadline = loop.call_later(self._limits.ack_timeout_s, self._give_up, submission)
        if self._look_again is None:
            self._look_again = loop.call_later(_LOOK_AGAIN_S, self._on_look_again)
            self._say_that_senders_wait(loop.time())

    def _say_that_senders_wait(self, now_s: float) -> None:
        """Once a minute: under overload somebody waits, and nobody, many times a second."""
        if now_s - self._said_s >= _SAY_AGAIN_S:
            self._said_s = now_s
            logger.warning("senders wait: there is no room for more now", extra={
                "waiting": self.waiting.rows, "held": self._counters.held_readings, "waited": self._counters.waited,
            })  # fmt: skip

    def _give_up(self, submission: Submission) -> None:
        if self.waiting.give_up(submission):
            self._refuse(submission)
            self._release()

    def _refuse(self, submission: Submission) -> None:
        self._counters.unavailable += 1
        waiting = self._counters.held_readings + self.waiting.rows
        submission.failed(Unavailable(f"{waiting} readings wait to be stored: send again later"))

    def _release(self) -> None:
        """Let in those for which there is room now."""
        if self.waiting:
            self.waiting.release(self._has_room, self._gather)
            self._counters.waiting_readings = self.waiting.rows

    def _on_look_again(self) -> None:
        """Hosts that are not heard of any more hold nobody back, and nothing tells us when."""
        self._release()
        self._look_again = None
        if self.waiting:
            self._look_again = asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._on_look_again)

    async def close(self) -> None:
        """Take no more; return once all that was taken is stored or refused."""
        self._is_closed = True
        while self.waiting or self._counters.held_readings:
            self._release()
            await asyncio.gather(*(commit.drain() for commit in self._commits.values()))
