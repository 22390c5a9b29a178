"""The bus: one NATS connection with the few verbs the platform needs.

publish: into a stream, acknowledged after fsync. follow: a stream in order, exactly from a sequence, across
reconnects. ask/answer: a question to whoever holds a subject. Subjects are spelled in `domain.subjects`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec
import nats
import pyarrow as pa
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js import api
from nats.js.errors import APIError, BadRequestError, NotFoundError

from domain import errors, subjects
from domain.errors import Unavailable, VitalgridError
from domain.retention import STREAM_DAYS
from runtime.batches import NewMessage, NotAcknowledged, batches_of, publish_batch
from runtime.bus_access import WHOEVER, BusKey
from runtime.follower import Follower, StreamMessage
from runtime.tls import TakenUp

logger = logging.getLogger(__name__)

_ERROR_HEADER: Final = "Vitalgrid-Error"
_END_HEADER: Final = "Vitalgrid-End"
_STATUS_HEADER: Final = "Status"  # the server's own, of what it says itself
_FLUSH_S: Final = 5
_FOR_EVER_S: Final = 0.0  # as the server spells it
_CHUNK_BYTES: Final = 4 * 2**20
_REFUSES_NEW: Final = (subjects.READINGS_STREAM, subjects.AUDIT_STREAM)  # when they are full
_ERRORS: Final = {
    cls.code: cls for cls in (
        errors.InvalidInput, errors.NotFound, errors.Conflict, errors.Forbidden, errors.Unavailable, errors.IntegrityViolation,
        errors.Unauthenticated, errors.TooManyAttempts, errors.TooManyRequests, errors.Busy,
    )
}  # fmt: skip
Handler = Callable[[bytes, str], Awaitable[bytes | pa.Table]]


@dataclass(frozen=True, slots=True)
class StreamState:
    first_sequence: int
    last_sequence: int
    messages: int
    size_bytes: int
    max_bytes: int = 0  # 0: as many as the disk has


class _Ack(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: dict[str, object] | None = None


_ack_decoder: Final = msgspec.json.Decoder(_Ack)


class Bus:
    """A connection to the bus. Make one with `Bus.connect`; it reconnects for ever until `close`."""

    def __init__(self, client: Client, transitions: _Transitions) -> None:
        self._client = client
        self._transitions = transitions
        self._jetstream = client.jetstream(timeout=5.0)
        self._answers: set[asyncio.Task[None]] = set()

    @classmethod
    async def connect(cls, url: str, key: BusKey, name: str) -> Self:
        """Connect as `name` (shown by the server's monitoring). Raises Unavailable when nobody listens at `url`."""
        transitions = _Transitions(name)
        try:
            client = await nats.connect(
                url,
                **_proof(key, transitions),
                name=name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,
                ping_interval=5,
                max_outstanding_pings=2,
                connect_timeout=5,
                allow_reconnect=True,
                pending_size=64 * 2**20,
                error_cb=_log_client_error,
                disconnected_cb=transitions.down,
                reconnected_cb=transitions.up,
            )
        except (NatsError, OSError, TimeoutError) as error:
            raise Unavailable(f"the bus at {url} does not answer: {error}") from error
        return cls(client, transitions)

    @property
    def is_connected(self) -> bool:
        return bool(self._client.is_connected)

    async def close(self) -> None:
        """Send what is pending and disconnect."""
        self._transitions.is_closing = True
        for task in self._answers:
            task.cancel()
        if self._client.is_connected:
            await self._client.drain()
        else:
            await self._client.close()

    async def publish(self, subject: str, payload: bytes, message_id: str) -> int:
        """Store a message in the stream of `subject`; return its sequence once it is fsynced.

        The stream keeps one message for each `message_id` within its duplicate window, so a retry with the same id
        stores nothing twice and returns the first one's sequence. Raises Unavailable when the stream did not
        acknowledge: the message may or may not be stored, and the caller retries with the same id.
        """
        try:
            reply = await self._client.request(subject, payload, timeout=5.0, headers={api.Header.MSG_ID.value: message_id})
        except (NatsError, TimeoutError, OSError) as error:
            await self._complain(subject)
            raise Unavailable(f"no acknowledgement from the stream of {subject}: {type(error).__name__}") from error
        ack = _ack_decoder.decode(reply.data)
        if ack.error is not None:
            raise Unavailable(f"the stream of {subject} refused a message: {ack.error.get('description')}")
        return ack.seq

    async def publish_all(self, messages: Sequence[NewMessage]) -> None:
        """Store messages of one stream in their order, many with one fsync; returns once all are fsynced.

        Each is kept once, as by `publish`. Raises Unavailable when the stream did not acknowledge: the first of them
        may be stored, and the caller retries with the same ids.
        """
        for batch in batches_of(messages):
            if len(batch) == 1 or not await self._publish_batch(batch):
                for message in batch:
                    await self.publish(*message)

    async def _publish_batch(self, batch: Sequence[NewMessage]) -> bool:
        try:
            return await publish_batch(self._client, batch)
        except NotAcknowledged:
            await self._complain(batch[0].subject)
            raise

    async def _complain(self, subject: str) -> None:
        """Tell whoever keeps the server that a stream does not answer, unless it is the connection that is gone."""
        if self._client.is_connected:
            with contextlib.suppress(NatsError, OSError):
                await self._client.publish(subjects.STREAM_SILENT, subject.encode())

    async def follow(
        self,
        stream: str,
        wanted: list[str],
        start_sequence: int,
        on_message: Callable[[StreamMessage], None],
    ) -> Follower:
        """Deliver messages of `wanted` subjects in stream order from `start_sequence` on, each exactly once.

        `on_message` runs on the event loop and must be quick. Stop with `await follower.stop()`; hold the flow with
        `follower.pause()` and `resume()`. Raises Unavailable when the stream cannot be followed now.
        """
        follower = Follower(self._client, self._jetstream, stream, wanted, start_sequence, on_message)
        try:
            await follower.start()
        except (NatsError, TimeoutError, OSError) as error:
            await follower.stop()
            raise Unavailable(f"stream {stream} cannot be followed now: {type(error).__name__}") from error
        return follower

    async def stream_state(self, stream: str) -> StreamState:
        """First and last sequence and size of a stream. Raises Unavailable."""
        try:
            info = await self._jetstream.stream_info(stream)
        except (NatsError, TimeoutError, OSError) as error:
            raise Unavailable(f"stream {stream} does not answer: {type(error).__name__}") from error
        state = info.state
        return StreamState(state.first_seq, state.last_seq, state.messages, state.bytes, max(info.config.max_bytes or 0, 0))

    async def last_sequence(self, stream: str, subject: str) -> int:
        """Sequence of the newest message of one subject; 0 when there is none. Raises Unavailable."""
        try:
            message = await self._jetstream.get_last_msg(stream, subject)
        except NotFoundError:
            return 0
        except (NatsError, TimeoutError, OSError) as error:
            raise Unavailable(f"stream {stream} does not answer: {type(error).__name__}") from error
        return int(message.seq or 0)

    async def purge(self, stream: str, until: int) -> None:
        """Delete what lies before sequence `until`; the next message gets it at least. Raises Unavailable."""
        try:
            await self._jetstream.purge_stream(stream, seq=until)
        except (NatsError, TimeoutError, OSError) as error:
            raise Unavailable(f"stream {stream} does not answer: {type(error).__name__}") from error

    async def get_message(self, stream: str, sequence: int) -> StreamMessage | None:
        """One stored message, or None when there is none at that sequence. Raises Unavailable."""
        return await self._stored(stream, sequence)

    async def next_message(self, stream: str, subject: str, sequence: int) -> StreamMessage | None:
        """The first stored message of a subject, from that sequence on; None when there is none. Raises Unavailable."""
        return await self._stored(stream, sequence, subject)

    async def _stored(self, stream: str, sequence: int, subject: str | None = None) -> StreamMessage | None:
        try:
            raw = await self._jetstream.get_msg(stream, sequence, subject=subject, next=subject is not None)
        except (NotFoundError, BadRequestError):
            return None
        except (NatsError, TimeoutError, OSError) as error:
            raise Unavailable(f"stream {stream} does not answer: {type(error).__name__}") from error
        stored_us = round(raw.time.timestamp() * 1e6) if raw.time else 0
        return StreamMessage(str(raw.subject), int(raw.seq or 0), raw.data or b"", stored_us)

    async def ask(self, subject: str, payload: bytes, timeout_s: float = 2.0) -> bytes:
        """One question, one answer. Raises Unavailable when nobody answers, else the error the answerer raised."""
        parts = await self._ask(subject, payload, timeout_s)
        return b"".join(parts)

    async def ask_table(self, subject: str, payload: bytes, timeout_s: float = 5.0) -> pa.Table:
        """One question answered by an Arrow table of any size. Errors as `ask`."""
        parts = await self._ask(subject, payload, timeout_s)
        return pa.ipc.open_stream(pa.py_buffer(b"".join(parts))).read_all()

    async def _ask(self, subject: str, payload: bytes, timeout_s: float) -> list[bytes]:
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, pending_bytes_limit=0)
        parts: list[bytes] = []
        try:
            await self._client.publish(subject, payload, reply=inbox)
            async with asyncio.timeout(timeout_s):
                while True:
                    message = await subscription.next_msg(timeout=None)
                    headers = message.headers or {}
                    if headers.get(_STATUS_HEADER) == "503":
                        raise Unavailable(f"nobody answers at {subject}")
                    if _ERROR_HEADER in headers:
                        raise _ERRORS.get(headers[_ERROR_HEADER], VitalgridError)(message.data.decode())
                    parts.append(message.data)
                    if _END_HEADER in headers:
                        return parts
        except TimeoutError:
            raise Unavailable(f"no answer from {subject} within {timeout_s:g} s") from None
        except NatsError as error:
            raise Unavailable(f"cannot ask {subject}: {type(error).__name__}") from error
        finally:
            if not self._client.is_closed:
                await subscription.unsubscribe()

    async def answer(
        self, subject: str, handler: Handler, admits: Callable[[str], bool] = lambda _: True
    ) -> Callable[[], Awaitable[None]]:
        """Answer questions on `subject` until the returned callable is awaited.

        What `admits` refuses by its exact subject is not answered at all: whoever floods costs no more than to look.

        `handler` gets the payload and the exact subject; what it raises of `domain.errors` reaches the asker. Any
        other exception is logged and told as unavailable.
        """

        async def receive(message: Msg) -> None:
            if not message.reply or not admits(message.subject):  # who wants no answer has asked nothing
                return
            task = asyncio.create_task(self._reply(message, handler))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

        subscription = await self._client.subscribe(subject, cb=_said_on(subject, receive))
        return subscription.unsubscribe

    async def flush(self) -> None:
        """Return once the server has taken all that was sent so far, subscriptions too; or at once when it is away."""
        with contextlib.suppress(NatsError, TimeoutError, OSError):
            if self._client.is_connected:
                await self._client.flush(_FLUSH_S)

    async def is_answering(self, within_s: float) -> bool:
        """Whether the server answers, within so long: it tells at once that nobody listens to what we ask.

        Not by a ping: one whose answer comes after its time-out breaks the connection in nats-py.
        """
        try:
            await self._client.request(subjects.NOBODY, b"", timeout=within_s)
        except NoRespondersError:
            return True
        except (NatsError, TimeoutError, OSError):
            return False
        return True

    async def _reply(self, message: Msg, handler: Handler) -> None:
        try:
            result = await handler(message.data, message.subject)
        except VitalgridError as error:
            await self._client.publish(message.reply, str(error).encode(), headers={_ERROR_HEADER: error.code})
            return
        except Exception:  # the asker gets an answer whatever a handler does; the trace is in the log
            logger.exception("a question could not be answered", extra={"subject": message.subject})
            sentence = b"the question met an unexpected error; it is in the log"
            await self._client.publish(message.reply, sentence, headers={_ERROR_HEADER: Unavailable.code})
            return
        data = _ipc_bytes(result) if isinstance(result, pa.Table) else result
        for start in range(0, max(len(data), 1), _CHUNK_BYTES):
            is_last = start + _CHUNK_BYTES >= len(data)
            headers = {_END_HEADER: "1"} if is_last else None
            await self._client.publish(message.reply, data[start : start + _CHUNK_BYTES], headers=headers)

    async def core_publish(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        """Tell whoever listens now; kept nowhere."""
        await self._client.publish(subject, payload, headers=headers)

    async def core_subscribe(self, subject: str, callback: Callable[[bytes, str], None]) -> None:
        """Call back for each message told on `subject` from now on."""

        async def receive(message: Msg) -> None:
            callback(message.data, message.subject)

        await self._client.subscribe(subject, cb=_said_on(subject, receive))

    async def ensure_streams(
        self, *, max_stream_bytes: int, retention_s: float, duplicate_window_s: float, replicas: int = 1,
        beginnings: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        """Create the platform's streams, or bring their limits up to date. Idempotent.

        One that is created begins at its sequence in `beginnings`, or at 1; see `cluster.stream_beginnings`.
        Alarms, rejects and the access log's records may take a tenth of the readings' bytes each. Alarms and rejects drop
        their oldest; readings and records refuse new ones. Records stay until the log has them, however long that takes,
        and none is ever deleted alone.
        """
        month_s = STREAM_DAYS * 86_400.0
        side_bytes = max(max_stream_bytes // 10, 2**20)
        for name, wanted, max_age_s, max_bytes in (
            (subjects.READINGS_STREAM, subjects.READINGS_SUBJECTS, retention_s, max_stream_bytes),
            (subjects.ALARMS_STREAM, subjects.ALARMS_SUBJECTS, month_s, side_bytes),
            (subjects.REJECTS_STREAM, subjects.REJECTS_SUBJECTS, month_s, side_bytes),
            (subjects.AUDIT_STREAM, subjects.AUDIT_SUBJECTS, _FOR_EVER_S, side_bytes),
        ):
            config = api.StreamConfig(
                name=name,
                subjects=list(wanted),
                storage=api.StorageType.FILE,
                retention=api.RetentionPolicy.LIMITS,
                discard=api.DiscardPolicy.NEW if name in _REFUSES_NEW else api.DiscardPolicy.OLD,
                deny_delete=name == subjects.AUDIT_STREAM,
                max_bytes=max_bytes,
                max_age=max_age_s,
                duplicate_window=min(duplicate_window_s, max_age_s or duplicate_window_s),
                num_replicas=replicas,
                allow_direct=True,
                allow_atomic=True,
                first_seq=(beginnings or {}).get(name, 1),
            )
            try:
                await self._jetstream.add_stream(config)
            except APIError:
                config.first_seq = await self._first_sequence_of(name)
                await self._jetstream.update_stream(config)

    async def _first_sequence_of(self, stream: str) -> int:
        """Where a stream that is there says it begins. Told anything higher the server empties it at its next start."""
        info = await self._jetstream.stream_info(stream)
        return max(1, min(int(info.config.first_seq or 1), int(info.state.first_seq)))


def _said_on(wanted: str, receive: Callable[[Msg], Awaitable[None]]) -> Callable[[Msg], Awaitable[None]]:
    """`receive`, of what was said on `wanted` alone, by who may publish there.

    Whoever may follow a stream chooses the subject to which the server delivers, and the server does not ask whether they may
    publish there. What it delivers says under which subject it is kept, and what it says of the stream itself has a status.
    """
    is_told = False

    async def heed(message: Msg) -> None:
        nonlocal is_told
        if subjects.is_within(message.subject, wanted) and _STATUS_HEADER not in (message.headers or {}):
            await receive(message)
        elif not is_told:  # once: whoever does that can do it many times
            is_told = True
            told = {"subject": wanted, "kept_as": message.subject}
            logger.error("what was delivered of a stream is not heeded as if it were said", extra=told)

    return heed


def _ipc_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _proof(key: BusKey, transitions: _Transitions) -> dict[str, Any]:
    """What nats-py wants to be told to prove who we are."""
    if isinstance(key, str):
        return {"user": WHOEVER, "password": key}
    transitions.tls = key.taken_up()
    return {"tls": transitions.tls.context, "tls_handshake_first": True, "inbox_prefix": key.inbox}


async def _log_client_error(error: Exception) -> None:
    if "permissions violation" in str(error):
        logger.error("the bus refused what is not this process' own: %s", error)
    else:
        logger.debug("bus client error: %s", type(error).__name__)


class _Transitions:
    """Says once that the bus is lost and once that it is back."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.is_closing = False
        self.tls: TakenUp | None = None

    async def down(self) -> None:
        if self.is_closing:
            return
        if self.tls is not None:
            self.tls.look()  # it may have been renewed since, and the old one have ended
        logger.warning("the bus connection is lost; reconnecting", extra={"connection": self._name})

    async def up(self) -> None:
        logger.warning("the bus connection is back", extra={"connection": self._name})
