"""Doubles and servers that tests of doors share: a dict of identities, a bus in memory that can be held, a running door."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import uvicorn

from domain import subjects
from domain.errors import Unauthenticated, Unavailable
from domain.frames import decode_frame
from domain.messages import DeviceEvent, Reject, SecurityNotice, decode_control
from domain.ports import Sender, Shown
from domain.readings import DTYPES, ReadingBatch
from domain.thing_catalogue import thing_model
from domain.thing_models import Lane
from runtime.bus import StreamState
from runtime.clock import ManualClock
from runtime.follower import StreamMessage

NOW_US = 1_795_420_800_000_000  # 2026-11-23T08:00:00Z
MONITOR = Sender("sz.h001/mon-7", 7, "sz.h001", 3, thing_model("monitor"))
CUFF = Sender("sz.h001/cuff-8", 8, "sz.h001", 3, thing_model("bp-cuff"))
GATEWAY = Sender("sz.h001/gw-1", 100, "sz.h001", 3)
SENSOR = Sender("sz.h001/room-900", 900, "sz.h001", 3, thing_model("room-sensor"))
TOKENS = {"token-of-monitor": MONITOR, "token-of-cuff": CUFF, "token-of-gateway": GATEWAY}


class DictIdentities:
    """Identities from a dict. Handles 1 to 999 are of shard 3, 1001 to 1999 of shard 5; others are unknown."""

    def __init__(self, tokens: dict[str, Sender] | None = None) -> None:
        self.tokens = dict(TOKENS if tokens is None else tokens)
        self.is_down = False
        self.moved: dict[str, int] = {}  # hospitals that were handed over

    async def sender_of(self, shown: Shown) -> Sender:
        unknown = Unauthenticated("nothing was shown")
        for token in shown.tokens:
            try:
                return await self.identify(token)
            except Unauthenticated as error:
                unknown = error
        raise unknown

    async def identify(self, token: str) -> Sender:
        if self.is_down:
            raise Unavailable("the directory does not answer")
        if token not in self.tokens:
            raise Unauthenticated("the token is unknown")
        return self.tokens[token]

    async def revoked(self, senders: Sequence[Sender]) -> list[Sender]:
        if self.is_down:
            raise Unavailable("the directory does not answer")
        return [sender for sender in senders if sender not in self.tokens.values()]

    def place_of(self, hospital_id: str, shard: int) -> int:
        return self.moved.get(hospital_id, shard)

    async def shards_of(self, sender: Sender, handles: np.ndarray) -> np.ndarray:
        shards = np.select([(handles >= 1) & (handles < 1000), (handles > 1000) & (handles < 2000)], [3, 5], -1)
        return shards.astype(np.int16)

    def lane_of(self, handles: np.ndarray) -> Lane:
        """Handles 900 to 999 are of sensors."""
        return Lane.BULK if ((handles >= 900) & (handles < 1000)).all() else Lane.PRIORITY


@dataclass
class MemoryBus:
    """The streams in a list. `held` keeps acknowledgements back; `failures` publishes are refused, `lost` answers lost."""

    messages: list[StreamMessage] = field(default_factory=list)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    failures: int = 0
    lost: int = 0
    tries: int = 0
    committed: int | None = None  # what the host of any shard says of the lake; None: there is no host

    def __post_init__(self) -> None:
        self.held.set()
        self._ids: dict[str, int] = {}

    def hold(self) -> None:
        self.held.clear()

    def release(self) -> None:
        self.held.set()

    async def publish(self, subject: str, payload: bytes, message_id: str) -> int:
        self.tries += 1
        await self.held.wait()
        if self.failures:
            self.failures -= 1
            raise Unavailable("no acknowledgement")
        sequence = self._ids.get(message_id)
        if sequence is None:
            sequence = self._ids[message_id] = len(self.messages) + 1
            self.messages.append(StreamMessage(subject, sequence, payload, NOW_US))
        if self.lost:
            self.lost -= 1
            raise Unavailable("the acknowledgement was lost")
        return sequence

    async def last_sequence(self, stream: str, subject: str) -> int:
        return max((m.sequence for m in self.messages if m.subject == subject), default=0)

    async def get_message(self, stream: str, sequence: int) -> StreamMessage | None:
        return next((message for message in self.messages if message.sequence == sequence), None)

    async def ask_table(self, subject: str, payload: bytes, timeout_s: float) -> pa.Table:
        if self.committed is None:
            raise Unavailable(f"nobody answers at {subject}")
        return pa.table({"applied": [self.committed], "committed": [self.committed]})

    async def stream_state(self, stream: str) -> StreamState:
        return StreamState(1 if self.messages else 0, len(self.messages), len(self.messages), 0)

    def frames(self, shard: int | None = None) -> list:
        """Decoded frames in order."""
        wanted = "reading." if shard is None else subjects.reading(shard)
        return [decode_frame(m.payload) for m in self.messages if m.subject.startswith(wanted)]

    def readings(self) -> ReadingBatch:
        return ReadingBatch.concat(frame.readings for frame in self.frames())

    def events(self) -> list[tuple[int, str, str | None]]:
        """(handle, event, detail) in order."""
        controls = [decode_control(m.payload) for m in self.messages if m.subject.startswith("control.")]
        return [(c.handle, c.event, c.detail) for c in controls if isinstance(c, DeviceEvent)]

    def notices(self) -> list[SecurityNotice]:
        """What doors noticed of their senders, in order."""
        controls = [decode_control(m.payload) for m in self.messages if m.subject.startswith("control.")]
        return [control for control in controls if isinstance(control, SecurityNotice)]

    def rejects(self) -> list[Reject]:
        return [msgspec.json.decode(m.payload, type=Reject) for m in self.messages if m.subject.startswith("reject.")]


def assert_same_rows(one: ReadingBatch, other: ReadingBatch) -> None:
    """Column by column; NaN equals NaN."""
    for name in DTYPES:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def clock() -> ManualClock:
    return ManualClock(NOW_US)


@asynccontextmanager
async def served(app) -> AsyncIterator[str]:
    """The base URL of an ASGI application on a real server and a free port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off"))
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
            await asyncio.sleep(0.005)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


async def run(*command: str, stdin: bytes | None = None) -> tuple[int, str]:
    """(exit code, all output) of a program; fails, does not skip, when it is not installed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE if stdin is not None else None, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    async with asyncio.timeout(20):
        output, _ = await process.communicate(stdin)
    return process.returncode or 0, output.decode()


def make_certificate(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for 127.0.0.1, and the certificate that a client trusts."""
    key, certificate = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate
