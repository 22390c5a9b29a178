"""The trail of accesses: each on this disk before its answer goes, then carried to the access log, once and in order.

What waits for the disk together shares one fsync. While accesses cannot be kept, or do not get through to the log,
`why_closed` says why: then protected records are not shown. In an emergency they are: such an access waits in memory for
a disk that is full, and is noted when there is room; while any waits there the door is closed as well. Memory holds so
many; those beyond are counted, and the count is noted: whoever stands at a bed is refused nothing because a disk is full.
Clauses 6.1b, 9.3e.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

import msgspec

from domain import subjects
from domain.errors import AuditUnavailable, IntegrityViolation, Unavailable
from domain.log_entries import LogRecord
from domain.messages import LogState
from runtime.access_journal import AccessJournal, NewAccess, WaitingAccess
from runtime.batches import NewMessage
from runtime.outbox_relay import Publisher, carry_for_ever

P = ParamSpec("P")
R = TypeVar("R")
logger = logging.getLogger(__name__)

SOURCE: Final = "accesses"
OVERSIZE: Final = "oversize"  # the kind of what stands in the log for an event that was too large
MOST_BEHIND_S: Final = 10.0  # an access that has not reached the stream for so long closes the door
FIRST_WORD_S: Final = 30.0  # within which a log that begins has said something
MOST_HELD: Final = 10_000  # emergency accesses that memory may hold
MOST_HELD_BYTES: Final = 64 * 2**20  # of their events
FORGOTTEN: Final = "forgotten"  # the kind of what stands in the log for accesses that memory had no room for
_LOOK_S: Final = 0.2
_AT_ONCE: Final = 500
MOST_EVENT_BYTES: Final = 2**20  # far below what the bus takes: one that it never takes would hold up all behind it
_encoder: Final = msgspec.json.Encoder(order="sorted")


class AccessTrail:
    """See module. `log_state` is what the access log said of itself in the last ten seconds; None: nothing.

    One trail a journal. Calls come from one event loop.
    """

    def __init__(
        self, journal: AccessJournal, publisher: Publisher, log_state: Callable[[], LogState | None],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._journal = journal
        self._publisher = publisher
        self._log_state = log_state
        self._now_s = now_s
        self._thread = ThreadPoolExecutor(1, "accesses")  # each answer waits for it: it is not to wait for anything else's work
        self._pending: list[tuple[Sequence[NewAccess], asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._held: deque[NewAccess] = deque()
        self._held_bytes = 0
        self._forgotten: list[int] = []  # how many, when the first and when the last was; empty: none
        self._unheard_since_s: float | None = None  # since when the log has to be heard of, had it said nothing; None: not yet
        self._was_heard = False
        self._since_s: float | None = None  # when something began to wait for the stream, and nothing went there since

    def why_closed(self) -> str | None:
        """Why protected records may not be shown now, one sentence; None when they may."""
        state = self._log_state()
        self._was_heard = self._was_heard or state is not None
        if state is not None and state.problem is not None:
            return f"the access log does not grow: {state.problem}"
        if state is None and self._is_word_due():
            return "the access log is not heard of: its process is away, or hangs"
        if self._held or self._forgotten:
            return "accesses wait in memory: the disk takes none"
        behind_s = 0.0 if self._since_s is None else self._now_s() - self._since_s
        if behind_s > MOST_BEHIND_S:
            return f"accesses have not reached the access log for {behind_s:.0f} s"
        return None

    def _is_word_due(self) -> bool:
        if self._was_heard:
            return True
        return self._unheard_since_s is not None and self._now_s() - self._unheard_since_s > FIRST_WORD_S

    @property
    def held(self) -> int:
        """Accesses in an emergency that only memory holds."""
        return len(self._held)

    async def note(self, *accesses: NewAccess, is_emergency: bool = False) -> None:
        """Return once `accesses` are on disk, all or none; of an emergency at the latest once memory holds them.

        Raises AuditUnavailable when they cannot be kept: then nothing may be shown.
        """
        noted = asyncio.get_running_loop().create_future()
        self._pending.append((accesses, noted))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="note accesses")
        try:
            await noted
        except (Unavailable, IntegrityViolation) as error:
            if not is_emergency:
                raise AuditUnavailable(f"who sees what cannot be noted: {error}") from None
            for access in accesses:
                self._hold(access)

    def _hold(self, access: NewAccess) -> None:
        size_bytes = self._held_bytes + len(access.event)
        if len(self._held) < MOST_HELD and size_bytes <= MOST_HELD_BYTES:
            self._held.append(access)
            self._held_bytes = size_bytes
            return
        if not self._forgotten:
            logger.error("accesses in an emergency are counted only: memory holds as many as it may", extra={"held": self.held})
        count, first_us = (self._forgotten[0], self._forgotten[1]) if self._forgotten else (0, access.at_us)
        self._forgotten = [count + 1, first_us, access.at_us]

    async def _write(self) -> None:
        """Write whatever waits, together, until nothing does."""
        while self._pending:
            batch, self._pending = self._pending, []
            try:
                await self._in_thread(self._journal.add, [access for accesses, _ in batch for access in accesses])
            except (Unavailable, IntegrityViolation) as error:
                outcome: Exception | None = error
            else:
                outcome = None
                self._begin_waiting()
            for _, noted in batch:
                if noted.done():  # whoever waited is gone
                    continue
                if outcome is None:
                    noted.set_result(None)
                else:
                    noted.set_exception(outcome)

    async def _in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))

    async def run(self) -> None:
        """Carry for ever; a bus, or a disk, that is away is waited for. From now on the log has to be heard of."""
        self._unheard_since_s = self._now_s()
        await carry_for_ever(self.carry, _AT_ONCE, "accesses for the access log", look_s=_LOOK_S)

    async def carry(self) -> int:
        """Carry what waits now, in memory too; returns how many. Raises Unavailable, with all of it still waiting."""
        await self._settle_held()
        waiting = await self._in_thread(self._journal.waiting, _AT_ONCE)
        if waiting:
            self._begin_waiting()
            await self._publisher.publish_all([_message(access) for access in waiting])
            await self._in_thread(self._journal.carried, waiting[-1].n)
        self._since_s = None  # what came meanwhile begins to wait at the next look
        return len(waiting)

    def _begin_waiting(self) -> None:
        if self._since_s is None:
            self._since_s = self._now_s()

    async def _settle_held(self) -> None:
        """Bring to disk what only memory holds. Raises Unavailable."""
        if self._held:
            settled = list(self._held)
            await self._in_thread(self._journal.add, settled)
            for _ in settled:
                self._held_bytes -= len(self._held.popleft().event)
            logger.warning("accesses in an emergency are noted now", extra={"accesses": len(settled)})
        if self._forgotten:
            told, self._forgotten = self._forgotten, []
            try:
                await self._in_thread(self._journal.add, [_of_forgotten(*told)])
            except BaseException:
                later = self._forgotten or [0, *told[1:]]
                self._forgotten = [told[0] + later[0], told[1], later[2]]
                raise


def _message(access: WaitingAccess) -> NewMessage:
    record = LogRecord(access.id, access.at_us, SOURCE, access.n, msgspec.Raw(_bearable(access)))
    return NewMessage(subjects.audit(SOURCE), _encoder.encode(record), access.id)


def _of_forgotten(count: int, first_us: int, last_us: int) -> NewAccess:
    """What is left to say of accesses that were shown and could not be held."""
    said = {"kind": FORGOTTEN, "count": count, "first_us": first_us, "last_us": last_us}
    return NewAccess(f"a-{uuid.uuid4().hex}", last_us, _encoder.encode(said))


def _bearable(access: WaitingAccess) -> bytes:
    """The event; of one that the bus would never take what is left to say: how large it was, and its digest."""
    if len(access.event) <= MOST_EVENT_BYTES:
        return access.event
    logger.error("access %s is too large for the access log, which says so: %d bytes", access.id, len(access.event))
    left = {"kind": OVERSIZE, "id": access.id, "bytes": len(access.event), "sha256": hashlib.sha256(access.event).hexdigest()}
    return _encoder.encode(left)
