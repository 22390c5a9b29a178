"""Follow a JetStream stream in order, from a sequence of our own keeping, across lost connections.

nats-py's own ordered consumer reads only one acknowledgement format and its pull `fetch` is known to stall, so the
consumer is ours: an ephemeral push consumer without acknowledgements, flow-controlled, whose every message carries
its stream and consumer sequence. A hole in the consumer sequence, or silence where the server should have sent a
heartbeat, makes a new consumer right after the last message seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext, api

from runtime.tasks import end

logger = logging.getLogger(__name__)

_HEARTBEAT_S: Final = 1.0
_SILENCE_S: Final = 3.5
_V1_TOKENS: Final = 9
_AT_ONCE: Final = 32  # messages, before others have a turn: a queue that is full is never waited for
_TURN_S: Final = 0.001  # the same of work: some messages are large, and several followers have their turns one after the other
_MESSAGE_ID: Final = api.Header.MSG_ID.value


@dataclass(frozen=True, slots=True)
class StreamMessage:
    """One stored message. `stored_us`: when the server stored it, UTC microseconds; `pending`: how many wait behind it.

    `message_id`: under which it was published; the stream keeps each id once.
    """

    subject: str
    sequence: int
    payload: bytes
    stored_us: int
    pending: int = 0
    message_id: str = ""


class Follower:
    """See module. `next_sequence` is where the next message is expected; `pending` what the stream still holds."""

    def __init__(
        self,
        client: Client,
        jetstream: JetStreamContext,
        stream: str,
        wanted: list[str],
        start_sequence: int,
        on_message: Callable[[StreamMessage], None],
    ) -> None:
        self._client = client
        self._jetstream = jetstream
        self._stream = stream
        self._wanted = wanted
        self.next_sequence = max(start_sequence, 1)
        self.pending = 0
        self._on_message = on_message
        self._consumer_sequence = 0
        self._unbroken = 0
        self._turn_began_s = 0.0
        self._subscription: object | None = None
        self._consumer: str | None = None
        self._last_sign = 0.0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._renew = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._subscribe()
        self._watch = asyncio.create_task(self._keep_alive(), name=f"follow {self._stream}")

    async def stop(self) -> None:
        """Stop delivering. No message is delivered after this returns."""
        await end(self._watch)
        await self._unsubscribe()

    def pause(self) -> None:
        """Let the server stop sending once its flow-control window is full."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    async def _subscribe(self) -> None:
        self._consumer_sequence = 0
        self._last_sign = asyncio.get_running_loop().time()
        inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(inbox, cb=self._receive, pending_msgs_limit=0, pending_bytes_limit=0)
        config = api.ConsumerConfig(
            deliver_subject=inbox,
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self.next_sequence,
            ack_policy=api.AckPolicy.NONE,
            max_deliver=1,
            flow_control=True,
            idle_heartbeat=_HEARTBEAT_S,
            filter_subjects=self._wanted,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=30.0,
        )
        info = await self._jetstream.add_consumer(self._stream, config)
        self._consumer = info.name
        if not self._consumer_sequence:  # else messages were faster than this answer, and know better
            self.pending = int(info.num_pending or 0)

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        consumer, self._consumer = self._consumer, None
        with contextlib.suppress(NatsError, TimeoutError, OSError):
            if subscription is not None:
                await subscription.unsubscribe()  # type: ignore[attr-defined]
            if consumer is not None:
                await self._jetstream.delete_consumer(self._stream, consumer)

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HEARTBEAT_S / 2):
                    await self._renew.wait()
            is_silent = self._flowing.is_set() and loop.time() - self._last_sign > _SILENCE_S
            if not (self._renew.is_set() or is_silent) or not self._client.is_connected:
                continue
            self._renew.clear()
            try:
                await self._unsubscribe()
                await self._subscribe()
            except (NatsError, TimeoutError, OSError) as error:
                logger.warning("a stream cannot be followed now; trying on: %s", type(error).__name__)
                self._renew.set()
                await asyncio.sleep(_HEARTBEAT_S / 2)

    async def _receive(self, message: Msg) -> None:
        self._last_sign = asyncio.get_running_loop().time()
        headers = message.headers
        if headers and "Status" in headers:
            await self._control(message, headers)
            return
        tokens = message.reply.split(".")
        # v1: $JS.ACK.stream.consumer.delivered.sseq.cseq.time.pending; v2 puts domain and account before the stream
        base = 2 if len(tokens) == _V1_TOKENS else 4
        sequence, consumer_sequence = int(tokens[base + 3]), int(tokens[base + 4])
        if consumer_sequence != self._consumer_sequence + 1:
            self._renew.set()
            return
        self._consumer_sequence = consumer_sequence
        self.next_sequence = sequence + 1
        self.pending = int(tokens[base + 6])
        message_id = headers.get(_MESSAGE_ID, "") if headers else ""
        stored_us = int(tokens[base + 5]) // 1000
        self._on_message(StreamMessage(message.subject, sequence, message.data, stored_us, self.pending, message_id))
        self._unbroken += 1
        loop = asyncio.get_running_loop()
        if self._unbroken >= _AT_ONCE or loop.time() - self._turn_began_s >= _TURN_S:
            self._unbroken = 0
            await asyncio.sleep(0)
            self._turn_began_s = loop.time()

    async def _control(self, message: Msg, headers: dict[str, str]) -> None:
        """Flow control is answered when we are ready for more; a heartbeat tells whether anything was missed."""
        if message.reply:
            await self._flowing.wait()
            await self._client.publish(message.reply)
            return
        stalled = headers.get("Nats-Consumer-Stalled")
        if stalled and self._flowing.is_set():
            await self._client.publish(stalled)
        last = headers.get("Nats-Last-Consumer")
        if last is not None and int(last) != self._consumer_sequence:
            self._renew.set()
