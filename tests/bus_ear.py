"""Everything that is said on a running platform's bus, by subject: as a user that no platform has, who may hear all."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import nats
import psutil
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from runtime.bus_access import BusCertificate
from runtime.certificates import Authority, Wanted
from tests.running_platform import RunningPlatform

_USER: Final = "ear.vitalgrid"
_DEADLINE_S: Final = 20.0


class Ear:
    """`heard` are all subjects so far; `names()` besides what is stored under which, and who reads it."""

    def __init__(self, platform: RunningPlatform) -> None:
        self.heard: set[str] = set()
        self._client: Client | None = None
        self._platform = platform
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def open(self) -> None:
        """Make the user and be one. Raises TimeoutError."""
        authority = Authority(self._platform.data_dir / "pki")
        authority.keep(Wanted("bus-ear", frozenset({_USER}), is_server=False), datetime.now(UTC))
        self._key = BusCertificate("observer", str(authority.file_of("bus-ear")), str(authority.file))
        config = self._platform.data_dir / "nats" / "run" / "nats-server.conf"
        text = config.read_text()
        assert text.count('"users": [') == 1  # of the platform's own account
        config.write_text(text.replace('"users": [', f'"users": [{{"user": "{_USER}"}}, '))
        own = psutil.Process(self._platform.process.pid)
        (server,) = [child for child in own.children(recursive=True) if child.name() == "nats-server"]
        server.send_signal(signal.SIGHUP)
        asyncio.run_coroutine_threadsafe(self._connect(), self._loop).result(_DEADLINE_S)

    async def _connect(self) -> None:
        while True:
            with contextlib.suppress(NatsError, OSError, TimeoutError):  # until the server has read who may come
                self._client = client = await nats.connect(
                    self._platform.connection.nats_url, tls=self._key.taken_up().context, tls_handshake_first=True,
                    allow_reconnect=False, connect_timeout=2, error_cb=_pass_over,
                )  # fmt: skip
                break
            await asyncio.sleep(0.05)

        async def hear(message: Msg) -> None:
            self.heard.add(message.subject)

        await client.subscribe(">", cb=hear)
        await client.flush()

    def names(self) -> set[str]:
        """Every subject that was heard or is stored, and the names of streams and of who follows them."""
        return self.heard | asyncio.run_coroutine_threadsafe(self._stored(), self._loop).result(_DEADLINE_S)

    async def _stored(self) -> set[str]:
        assert self._client is not None
        jetstream, found = self._client.jsm(), set()
        for stream in await jetstream.streams_info():
            name = str(stream.config.name)
            told = await jetstream.stream_info(name, subjects_filter=">")
            found |= {name, *(stream.config.subjects or ()), *(told.state.subjects or {})}
            found |= {consumer.name for consumer in await jetstream.consumers_info(name)}
        return found

    def close(self) -> None:
        """Also where it never came to hear anything."""
        if self._client is not None:
            asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(_DEADLINE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_DEADLINE_S)
        self._loop.close()


async def _pass_over(_: Exception) -> None:
    """Why it was not let in yet, or is no more."""


@contextlib.contextmanager
def listening(platform: RunningPlatform) -> Iterator[Ear]:
    ear = Ear(platform)
    try:
        ear.open()
        yield ear
    finally:
        ear.close()


def folders_of(platform: RunningPlatform) -> set[Path]:
    """Where the platform writes: its own folder, and that of its Ray's logs and sockets."""
    own = psutil.Process(platform.process.pid)
    said = [word for child in own.children(recursive=True) for word in child.cmdline() if word.startswith("--session-dir=")]
    return {platform.data_dir, *(Path(word.partition("=")[2]) for word in said)}
