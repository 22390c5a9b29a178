"""Messages of a stream as a file, and from such a file into a stream again: with their sequences, subjects and ids.

Layout: magic "VGMS", then for each message u32 length | msgpack of (sequence, subject, id, stored_us, payload). What was
stored when is kept for whoever reads the file; a stream says of restored messages when they were restored.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import Callable, Iterator
from typing import IO, Final, NamedTuple, Protocol

import msgspec

from domain import subjects
from domain.errors import IntegrityViolation, Unavailable
from runtime.backup_manifest import StreamFacts
from runtime.batches import MOST, MOST_BYTES, NewMessage
from runtime.bus import Bus
from runtime.follower import StreamMessage

SUBJECTS: Final = {
    subjects.READINGS_STREAM: subjects.READINGS_SUBJECTS,
    subjects.ALARMS_STREAM: subjects.ALARMS_SUBJECTS,
    subjects.REJECTS_STREAM: subjects.REJECTS_SUBJECTS,
    subjects.AUDIT_STREAM: subjects.AUDIT_SUBJECTS,
}
_MAGIC: Final = b"VGMS"
_LENGTH: Final = struct.Struct("<I")
_SILENT_S: Final = 30.0
_QUEUE: Final = 2_000
_MOST_MESSAGE_BYTES: Final = 64 * 2**20


class Kept(NamedTuple):
    """A message of a file."""

    sequence: int
    subject: str
    message_id: str
    stored_us: int
    payload: bytes


class Written(Protocol):
    def write(self, content: bytes, /) -> int | None: ...


_decoder: Final = msgspec.msgpack.Decoder(Kept)


async def copy_stream(
    bus: Bus, stream: str, first: int, last: int, file: Written, told: Callable[[int], None] = lambda _: None
) -> StreamFacts:
    """Write messages `first` to `last` of a stream, as far as it still has them. Raises Unavailable when it falls silent."""
    file.write(_MAGIC)
    state = await bus.stream_state(stream)
    first, last = max(first, state.first_sequence), min(last, state.last_sequence)
    writing = _Writing(file, first)
    if state.messages and first <= last:
        await _follow(bus, stream, first, last, lambda message: told(writing.add(message)))
    return StreamFacts(first, last if writing.messages else first - 1, writing.messages, writing.digest.hexdigest())


async def _follow(bus: Bus, stream: str, first: int, last: int, take: Callable[[StreamMessage], None]) -> None:
    waiting: asyncio.Queue[StreamMessage] = asyncio.Queue()
    follower = await bus.follow(stream, list(SUBJECTS[stream]), first, waiting.put_nowait)
    try:
        while True:
            try:
                async with asyncio.timeout(_SILENT_S):
                    message = await waiting.get()
            except TimeoutError:
                raise Unavailable(f"stream {stream} gives no message up to {last}: try the backup again") from None
            if message.sequence <= last:
                take(message)
            if message.sequence >= last:
                return
            if waiting.qsize() > _QUEUE:
                follower.pause()
            elif waiting.qsize() < _QUEUE // 2:
                follower.resume()
    finally:
        await follower.stop()


class _Writing:
    def __init__(self, file: Written, first: int) -> None:
        self._file = file
        self.messages = 0
        self.digest = hashlib.sha256(b"%d" % first)

    def add(self, message: StreamMessage) -> int:
        kept = Kept(message.sequence, message.subject, message.message_id, message.stored_us, message.payload)
        record = msgspec.msgpack.encode(kept)
        self._file.write(_LENGTH.pack(len(record)) + record)
        self.digest.update(_told_again(kept))
        self.messages += 1
        return len(record)


def read_messages(file: IO[bytes]) -> Iterator[Kept]:
    """Messages of a file in their order. Raises IntegrityViolation."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise IntegrityViolation("this is no file of a stream's messages")
    while front := file.read(_LENGTH.size):
        length = _LENGTH.unpack(front)[0] if len(front) == _LENGTH.size else _MOST_MESSAGE_BYTES
        record = file.read(length) if length < _MOST_MESSAGE_BYTES else b""
        if len(record) != length:
            raise IntegrityViolation("a file of a stream's messages is cut off")
        try:
            yield _decoder.decode(record)
        except msgspec.MsgspecError as error:
            raise IntegrityViolation(f"a message of a stream's file is damaged: {error}") from None


async def fill_stream(bus: Bus, stream: str, facts: StreamFacts, file: IO[bytes]) -> None:
    """Store the messages of `file` in a stream that was just made to begin at `facts.first`.

    Where the stream had a hole, as readings may, a message takes its place that nobody follows. Raises IntegrityViolation
    when the stream does not end up as it was, Unavailable.
    """
    batch: list[NewMessage] = []
    ids: set[str] = set()  # a replay says an alarm again under its id; the stream had forgotten it by then
    size, expected = 0, facts.first
    for kept in read_messages(file):
        batch += [_filler(stream, hole) for hole in range(expected, kept.sequence)]
        is_new = kept.message_id not in ids and bool(kept.message_id)
        ids.add(kept.message_id)
        batch.append(NewMessage(kept.subject, kept.payload, kept.message_id if is_new else f"restored-{kept.sequence}"))
        expected, size = kept.sequence + 1, size + len(kept.payload)
        if len(batch) >= MOST or size > MOST_BYTES:
            await bus.publish_all(batch)
            batch, size = [], 0
    await bus.publish_all(batch)
    if (ends := (await bus.stream_state(stream)).last_sequence) != facts.last:
        raise IntegrityViolation(f"stream {stream} was restored up to {ends}: expected {facts.last}")


def _filler(stream: str, sequence: int) -> NewMessage:
    if stream != subjects.READINGS_STREAM:
        raise IntegrityViolation(f"stream {stream} has a hole at {sequence}, which nothing explains")
    return NewMessage(subjects.LOST, b"", f"hole-{sequence}")


async def stream_digest(bus: Bus, stream: str, facts: StreamFacts) -> str:
    """The digest of messages of a stream that `facts` are of, as the stream has them now: fillers do not count."""
    digest = hashlib.sha256(b"%d" % facts.first)

    def take(message: StreamMessage) -> None:
        if not message.message_id.startswith("hole-"):
            digest.update(_told_again(Kept(message.sequence, message.subject, "", 0, message.payload)))

    if facts.messages:
        await _follow(bus, stream, facts.first, facts.last, take)
    return digest.hexdigest()


def _told_again(kept: Kept) -> bytes:
    """Of a message, what is the same after it was restored."""
    return hashlib.sha256(b"%d %s\n" % (kept.sequence, kept.subject.encode()) + kept.payload).digest()
