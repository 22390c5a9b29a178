"""The bus as the platform starts it, sealed where its settings say so; in a process of the test's own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from cluster.sealing import StreamSeal, make_keys
from domain.bus_rights import SUPERVISOR
from runtime.bus import Bus
from runtime.bus_access import TokenAccess
from runtime.nats_server import NatsServer, StoreKey
from runtime.settings import Settings

TOKEN: Final = "a-token-for-tests"


def settings_of(folder: Path, *, sealed: bool = True) -> Settings:
    return Settings(data_dir=folder, security={"seal_files": sealed})


@asynccontextmanager
async def running_bus(settings: Settings) -> AsyncIterator[tuple[NatsServer, Bus, StoreKey | None]]:
    """The bus as the platform starts it. Whoever wants more than a clean stop kills it inside."""
    make_keys(settings)
    seal = StreamSeal(settings)
    server = NatsServer(settings.data_dir / "nats", access=TokenAccess(TOKEN))
    if (key := seal.prepare()) is not None:
        server.seal_store(key, os.environ)
    await server.start()
    try:
        seal.remember()
        bus = await connected(server)
        yield server, bus, key
        await bus.close()
    finally:
        await server.stop()


async def connected(server: NatsServer) -> Bus:
    bus = await Bus.connect(server.url, TOKEN, SUPERVISOR)
    await bus.ensure_streams(max_stream_bytes=2**30, retention_s=86_400, duplicate_window_s=600)
    return bus
