"""Orders about the key of nats-server's store that come while the server starts, or around one that is killed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster.first_start import prepare_database, sealer_of
from cluster.key_orders import SETTLED_S, check_destroy, opened
from cluster.sealing import STREAMS, StreamSeal
from domain import subjects
from domain.errors import Conflict
from runtime.bus import Bus
from runtime.bus_access import TokenAccess
from runtime.clock import ManualClock, SystemClock
from runtime.keys import KeyProvider
from runtime.nats_server import NatsServer
from runtime.settings import Settings
from runtime.soft_keys import SoftKeys
from runtime.sql.engine import open_engine
from tests.sealed_bus import TOKEN, connected, running_bus, settings_of

pytestmark = [pytest.mark.integration, pytest.mark.clause("7.2c")]


@pytest.fixture
async def settings(tmp_path: Path) -> Settings:
    """Of streams with one message, sealed under version 1."""
    async with running_bus(settings_of(tmp_path)) as (_, bus, _):
        await plant(bus)
    return settings_of(tmp_path)


@pytest.fixture
def keys(settings: Settings) -> KeyProvider:
    return SoftKeys(settings.keys_dir)


async def plant(bus: Bus) -> None:
    await bus.publish(subjects.REJECTS_SUBJECTS[0].replace(">", "test"), b"kept", os.urandom(8).hex())


async def messages(settings: Settings) -> int:
    """How many are there after another start."""
    async with running_bus(settings) as (_, bus, _):
        return (await bus.stream_state(subjects.REJECTS_STREAM)).messages


@asynccontextmanager
async def started(settings: Settings, seal: StreamSeal) -> AsyncIterator[NatsServer]:
    """A server that nobody has said of yet that it has started."""
    server, key = NatsServer(settings.data_dir / "nats", access=TokenAccess(TOKEN)), seal.prepare()
    assert key is not None
    server.seal_store(key, os.environ)
    await server.start()
    try:
        bus = await connected(server)
        await plant(bus)
        await bus.close()
        yield server
    finally:
        await server.stop()


async def test_a_key_that_is_ordered_while_the_server_starts_is_the_next_starts(settings: Settings, keys: KeyProvider) -> None:
    seal = StreamSeal(settings)
    async with started(settings, seal):
        keys.rotate(STREAMS)
        seal.remember()
    assert seal.versions() == {1}
    assert await messages(settings) == 2
    assert seal.versions() == {2}


async def test_a_key_that_a_killed_start_began_with_is_known_to_the_next_ones(settings: Settings, keys: KeyProvider) -> None:
    seal = StreamSeal(settings)
    engine = open_engine(settings.sql_url, sealer_of(settings))
    prepare_database(engine, settings, sealer_of(settings))
    engine.dispose()
    keys.rotate(STREAMS)
    async with started(settings, seal) as server:
        server.kill()
    keys.rotate(STREAMS)
    clock = ManualClock(SystemClock().now_us() + int((SETTLED_S + 1) * 1e6))
    for version in (1, 2):  # some of the streams may be under either
        with opened(settings, clock) as stores, pytest.raises(Conflict, match="are 1 the streams' store"):
            check_destroy(stores, STREAMS, version)
    assert await messages(settings) == 2
    assert seal.versions() == {2}
    assert await messages(settings) == 2
    assert seal.versions() == {3}
