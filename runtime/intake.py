"""The Intake: readings of all connections become few frames, and nobody is answered before the stream has them.

Readings come in lanes (`domain.thing_models.Lane`), by what depends on their devices. In each lane they leave in group
commits (`runtime.intake_lanes`): one fsync serves thousands of senders. There is not always room: of memory here
(`max_pending_readings`, less of it for gateways, half for bulk), and before the hosts (`runtime.admission`). Who finds none
waits, in order, with its answer; that is how senders are slowed. A lane is let in before the next, and is not held up by it:
what a monitor says over a connection of its own waits neither for bulk nor for gateways' thousands of readings.
After `ack_timeout_s`, or at once when as much waits as may be in memory, a sender is told Unavailable.

A group is one frame for each shard it touches. A frame is published until it is acknowledged, always under the same
message id, so that the stream keeps it once; after `ack_timeout_s` its senders are told Unavailable and repeat their
readings themselves (the frame may have been stored: source and sequence then tell the repetition).
Frames of one door are numbered by shard, from 1 at each start, so that a reader of a shard sees gaps; frames of keyed
requests (`runtime.once`) have no number. Clauses 5.4c, 7.3, 8.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Sequence
from typing import Final
from weakref import WeakValueDictionary

import numpy as np

from domain import subjects
from domain.errors import StorageFull, Unavailable, VitalgridError
from domain.frames import MAX_ROWS, encode_batches, encode_frame
from domain.messages import DeviceEvent, Reject, SecurityNotice, StorageLevel, StorageState, encode
from domain.ports import Claim, Clock, Identities, Receipt, Sender
from domain.readings import NO_SEQUENCE, ROW, ReadingBatch
from domain.thing_models import Lane
from runtime.admission import Admission
from runtime.intake_events import IntakeEvents
from runtime.intake_group import GroupFrame, Submission, own_readings_error, pieces, unknown_device
from runtime.intake_lanes import IntakeCounters, IntakeLimits, Lanes
from runtime.once import OnceLedger, RecordBus
from runtime.replay_gate import ReplayGate
from runtime.replays import Replays
from runtime.stamps import FrameStamps

logger = logging.getLogger(__name__)

MAX_REJECT_BYTES: Final = 65_536  # of a refused payload that are kept
_MANY: Final = 1_000_000
_FIRST_RETRY_S: Final = 0.05
_LAST_RETRY_S: Final = 1.0
_LANES: Final = (Lane.PRIORITY, Lane.BULK)  # of a gateway
_CONTROLS_AT_ONCE: Final = 32  # events and rejects on their way: a storm of them must not hold up readings


class StreamIntake:
    """Implements `domain.ports.OnceIntake` and `PackedIntake` over the bus.

    `source` is the door's own id, in every frame's header. `admission`: what is known of the hosts; by itself nothing.
    `replays`: what is known of senders' numbers; without it nothing is taken for a replay.
    """

    def __init__(
        self, bus: RecordBus, identities: Identities, clock: Clock, *, source: int, limits: IntakeLimits | None = None,
        admission: Admission | None = None, replays: Replays | None = None,
    ) -> None:  # fmt: skip
        self._bus = bus
        self._identities = identities
        self._clock = clock
        self._source = source
        self._limits = limits or IntakeLimits()
        self._ledger = OnceLedger(bus, clock, self._publish)
        self._boot = secrets.token_hex(6)  # a door that starts again never reuses a message id
        self._sequences: defaultdict[int, int] = defaultdict(int)  # shard -> frames so far
        self._messages = 0
        self._admission = admission or Admission(lambda: asyncio.get_running_loop().time())
        self.counters = IntakeCounters()
        self.gate = None if replays is None else ReplayGate(replays, self.counters)
        self.stamps = FrameStamps()
        self._lanes = Lanes(self._limits, self._admission, self._store, self.counters)
        self._looking_up: set[asyncio.Task[None]] = set()  # messages of gateways, whose devices are looked for
        self._looked_up_rows = 0
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()  # sender -> whose turn it is
        self._controls = asyncio.Semaphore(_CONTROLS_AT_ONCE)
        self._no_readings = ""  # why none are taken
        self._nothing = ""  # why nothing is taken at all
        self._events = IntakeEvents(identities, self._publish_control)

    def heed(self, states: Sequence[StorageState]) -> None:
        """Take what there is room for: `states` as they were last seen, of the places that what is taken has to go to."""
        self._no_readings = next((state.says for state in states if state.level is not StorageLevel.OK), "")
        self._nothing = next((state.says for state in states if state.level is StorageLevel.FULL), "")

    # ---- what doors call

    def submit(self, sender: Sender, readings: ReadingBatch, arrival_us: int = 0) -> Awaitable[Receipt]:
        """As `domain.ports.Intake.submit`; a device's own readings cost a future, no task."""
        if sender.model is not None:
            future = asyncio.get_running_loop().create_future()
            error = own_readings_error(sender, readings)
            if error is not None:
                future.set_exception(error)
            else:
                rows = len(readings)
                parts = ((self._shard_of(sender), readings, rows),)
                self._accept(Submission(sender.model.own_lane, parts, rows, future, arrival_us))
            return future
        future = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._look_up(sender, readings, future, arrival_us))
        self._looking_up.add(task)
        self._looked_up_rows += len(readings)
        task.add_done_callback(lambda done: self._looked_up(done, len(readings)))
        return future

    def submit_packed(self, sender: Sender, rows: bytes, arrival_us: int = 0) -> asyncio.Future[Receipt]:
        """As `domain.ports.PackedIntake.submit_packed`."""
        future = asyncio.get_running_loop().create_future()
        count = len(rows) // ROW.itemsize
        lane = Lane.PRIORITY if sender.model is None else sender.model.own_lane
        self._accept(Submission(lane, ((self._shard_of(sender), rows, count),), count, future, arrival_us))
        return future

    def allowance(self, sender: Sender) -> int:
        """As `domain.ports.Intake.allowance`. What a gateway brings is known only when it is read."""
        rows = self._lanes.waiting.rows + self._looked_up_rows
        if not rows:
            return _MANY
        lanes = _LANES if sender.model is None else (sender.model.own_lane,)
        most = self._limits.max_pending_readings
        if rows >= (most if lanes == (Lane.DIRECT,) else most // 2):
            return 0
        return 1 if any(self._lanes.waiting.has(lane, self._shard_of(sender)) for lane in lanes) else _MANY

    async def claim(self, sender: Sender, content: ReadingBatch | DeviceEvent, key: str, payload: bytes) -> Claim:
        """As `domain.ports.OnceIntake.claim`; see `runtime.once` for what is guaranteed."""
        why = self._nothing if isinstance(content, DeviceEvent) else self._no_readings
        if why:
            raise self._no_room(why)
        if isinstance(content, DeviceEvent):
            await self._events.shard_of(sender, content)
        else:
            await self._by_shard(sender, content)
        return await self._ledger.claim(sender, key, payload)

    async def submit_once(self, sender: Sender, content: ReadingBatch | DeviceEvent, claim: Claim) -> Receipt:
        """As `domain.ports.OnceIntake.submit_once`. The request has frames of its own, outside the groups."""
        if claim.receipt is not None:
            return claim.receipt
        message_id = f"once-{claim.name}-{claim.sequence}"
        if isinstance(content, DeviceEvent):
            receipt = await self._events.submit(sender, content, f"{message_id}-event")
        else:
            receipt = await self._store_alone(sender, content, message_id, claim.arrival_us)
        receipt = await self._ledger.located(receipt)
        await self._ledger.settle(claim, receipt)
        return receipt

    async def _store_alone(self, sender: Sender, readings: ReadingBatch, message_id: str, claim_us: int) -> Receipt:
        receipt, is_anew = None, False
        parts = await self._by_shard(sender, readings)
        if any(self._lanes.waiting.has(self._lane_of(sender, readings), shard) for shard, _ in parts):
            raise Unavailable("others wait for room already: send again later, with the same key")
        if self.gate is not None:
            known, is_anew = self.gate.look_at(readings, claim_us, asyncio.get_running_loop().time(), self._clock.now_us())
            if known is not None:
                return known
        for number, (shard, batch) in enumerate(parts):
            for start in range(0, len(batch), MAX_ROWS):
                rows = batch.take(slice(start, start + MAX_ROWS))
                arrival_us = self._clock.now_us()
                payload = encode_frame(rows, source=self._source, sequence=NO_SEQUENCE, arrival_us=arrival_us)
                with self.gate.publishing() if self.gate is not None else contextlib.nullcontext():
                    sequence = await self._publish(subjects.reading(shard), payload, f"{message_id}-{number}-{start}")
                    receipt = Receipt(shard, sequence, len(readings), is_anew)
                    if self.gate is not None:
                        self.gate.stored([rows], claim_us, receipt, ())
                self.stamps.note(sequence, arrival_us, self._clock.now_us(), len(rows), 1)
        assert receipt is not None
        self._count(1, len(readings))
        return receipt

    async def submit_event(self, sender: Sender, event: DeviceEvent) -> Receipt:
        """As `domain.ports.Intake.submit_event`."""
        return await self._events.submit(sender, event, self._message_id("event"))

    async def tell_event(self, event: DeviceEvent | SecurityNotice, shard: int) -> None:
        """As `domain.ports.Intake.tell_event`."""
        now = self._identities.place_of(event.hospital_id, shard)
        await self._events.store(now, event, self._message_id("event"))

    async def reject(self, *, door: str, sender: Sender | None, topic: str | None, payload: bytes,
                     reason: str, detail: str) -> None:  # fmt: skip
        """As `domain.ports.Intake.reject`; of the payload at most MAX_REJECT_BYTES are kept, and the detail says so."""
        if len(payload) > MAX_REJECT_BYTES:
            detail = f"{detail} (kept: the first {MAX_REJECT_BYTES} of {len(payload)} bytes)"
        hospital_id = sender.hospital_id if sender else None
        reject_id = self._message_id("reject")
        kept = Reject(reject_id, reason, detail, door, sender.name if sender else None, hospital_id,
                      self._clock.now_us(), payload[:MAX_REJECT_BYTES], topic)  # fmt: skip
        await self._publish_control(subjects.reject(hospital_id), encode(kept), reject_id)
        self.counters.rejects += 1

    async def close(self) -> None:
        """Take no more, and return once all that was taken is stored or its senders were told otherwise."""
        await self._lanes.close()

    # ---- gathering

    async def _look_up(
        self, sender: Sender, readings: ReadingBatch, future: asyncio.Future[Receipt], arrival_us: int
    ) -> None:  # fmt: skip
        """In the order of the sender: a message whose devices must be looked up first is not overtaken by the next one."""
        turn = self._turns.setdefault(sender.handle, asyncio.Lock())
        try:
            async with turn:
                parts = [(shard, batch, len(batch)) for shard, batch in await self._by_shard(sender, readings)]
                self._accept(Submission(self._lane_of(sender, readings), parts, len(readings), future, arrival_us))
        except Exception as error:  # whatever it is, no sender may wait for ever
            if not isinstance(error, VitalgridError):
                logger.exception("devices could not be looked up", extra={"device": sender.name})
                error = Unavailable("the readings could not be stored: send them again")
            if not future.done():
                future.set_exception(error)

    def _looked_up(self, task: asyncio.Task[None], rows: int) -> None:
        self._looking_up.discard(task)
        self._looked_up_rows -= rows

    def _lane_of(self, sender: Sender, readings: ReadingBatch) -> Lane:
        return self._identities.lane_of(readings.handle) if sender.model is None else sender.model.own_lane

    async def _by_shard(self, sender: Sender, readings: ReadingBatch) -> list[tuple[int, ReadingBatch]]:
        """The readings by shard. Raises RejectedInput when one is of a device that is not the sender's to speak for."""
        if sender.model is not None or not len(readings):
            error = own_readings_error(sender, readings)
            if error is not None:
                raise error
            return [(self._shard_of(sender), readings)]
        shards = await self._identities.shards_of(sender, readings.handle)
        unknown = shards < 0
        if unknown.any():
            handle = int(readings.handle[unknown.argmax()])
            raise unknown_device(handle, sender)
        if (shards == shards[0]).all():
            return [(int(shards[0]), readings)]
        return [(int(shard), readings.take(shards == shard)) for shard in np.unique(shards)]

    def _shard_of(self, sender: Sender) -> int:
        return self._identities.place_of(sender.hospital_id, sender.shard)

    def _accept(self, submission: Submission) -> None:
        if self._no_readings:
            submission.failed(self._no_room(self._no_readings))
        else:
            self._lanes.accept(submission)

    def _no_room(self, why: str) -> StorageFull:
        self.counters.unavailable += 1
        return StorageFull(f"{why}: send again later")

    # ---- committing

    def _frames_of(self, group: list[Submission]) -> list[GroupFrame]:
        arrival_us = self._clock.now_us()
        frames: list[GroupFrame] = []
        open_frames: dict[int, GroupFrame] = {}
        for submission in group:
            for shard, data, count in submission.parts:
                for piece, rows in pieces(data, count):
                    frame = open_frames.get(shard)
                    if frame is None or frame.rows + rows > MAX_ROWS:
                        self._sequences[shard] += 1
                        frame = open_frames[shard] = GroupFrame(shard, self._sequences[shard], arrival_us)
                        frames.append(frame)
                    frame.add(submission, piece, rows)
        return frames

    async def _store(self, group: list[Submission]) -> None:
        if self.gate is None:
            await asyncio.gather(*map(self._store_frame, self._frames_of(group)))
            return
        answered: list[Submission] = []
        try:
            group, answered = self.gate.admitted(group, asyncio.get_running_loop().time(), self._clock.now_us())
        except Exception:  # whatever it is, no sender may wait for ever: the cells know doubles too
            logger.exception("a group could not be looked at for replays, and is stored")
        for submission in answered:
            for shard, _, rows in submission.parts:
                self._admission.failed(shard, rows)
        with self.gate.publishing():
            await asyncio.gather(*map(self._store_frame, self._frames_of(group)))

    async def _store_frame(self, frame: GroupFrame) -> None:
        batches = frame.all_batches()
        try:
            payload = encode_batches(batches, source=self._source, sequence=frame.sequence, arrival_us=frame.arrival_us)
            message_id = f"{self._source}-{self._boot}-{frame.shard}-{frame.sequence}"
            sequence = await self._publish(subjects.reading(frame.shard), payload, message_id)
        except Exception as error:  # whatever it is, no sender may wait for ever
            if not isinstance(error, VitalgridError):
                logger.exception("a frame could not be stored", extra={"shard": frame.shard, "sequence": frame.sequence})
                error = Unavailable("the readings could not be stored: send them again")
            self._admission.failed(frame.shard, frame.rows)
            for submission in frame.submissions:
                submission.failed(error)
            return
        self._admission.stored(frame.shard, sequence, frame.rows)
        self.stamps.note(sequence, frame.arrival_us, self._clock.now_us(), frame.rows, len(frame.submissions))
        self._count(len(frame.submissions), frame.rows)
        receipt = Receipt(frame.shard, sequence, frame.rows)
        for submission in frame.submissions:
            submission.stored(receipt)
        if self.gate is not None:
            whole = [submission for submission in frame.submissions if not submission.frames_left]
            self.gate.stored(batches, frame.arrival_us, receipt, whole)

    async def _publish(self, subject: str, payload: bytes, message_id: str) -> int:
        """Publish until acknowledged, under one message id. Raises Unavailable after the time allowed."""
        deadline = asyncio.get_running_loop().time() + self._limits.ack_timeout_s
        delay_s = _FIRST_RETRY_S
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    try:
                        return await self._bus.publish(subject, payload, message_id)
                    except Unavailable:
                        self.counters.retries += 1
                    await asyncio.sleep(delay_s)
                    delay_s = min(2 * delay_s, _LAST_RETRY_S)
        except TimeoutError:
            self.counters.unavailable += 1
            raise Unavailable(f"the stream did not acknowledge within {self._limits.ack_timeout_s:g} s: send again") from None

    async def _publish_control(self, subject: str, payload: bytes, message_id: str) -> int:
        if self._nothing:
            raise self._no_room(self._nothing)
        async with self._controls:
            return await self._publish(subject, payload, message_id)

    def _message_id(self, kind: str) -> str:
        self._messages += 1
        return f"{kind}-{self._source}-{self._boot}-{self._messages}"

    def _count(self, submissions: int, readings: int) -> None:
        self.counters.frames += 1
        self.counters.submissions += submissions
        self.counters.readings += readings
