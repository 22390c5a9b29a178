"""Fixtures that every test may use: real servers, each isolated and on free ports."""

from __future__ import annotations

import gc
import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime import access_trail
from runtime.bus import Bus
from runtime.bus_access import TokenAccess
from runtime.nats_server import NatsServer
from tests.sql_fixtures import (  # noqa: F401 (fixtures)
    database_url,
    engine,
    hospital,
    new_database,
    sealer,
    sqlite_template,
    template_url,
)

TOKEN = "a-token-for-tests"

gc.set_threshold(100_000, 20, 20)  # by default a sixth of the tests' processor time goes into looking for cycles


def pytest_collection_finish() -> None:
    """Never look for cycles again among modules and collected tests, which stay; what a test leaves is found as before."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def patience_with_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Applications in this process have no access log beside them that says something of itself, nor need it to keep up."""
    monkeypatch.setattr(access_trail, "FIRST_WORD_S", math.inf)
    monkeypatch.setattr(access_trail, "MOST_BEHIND_S", math.inf)


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A real nats-server with the platform's streams, of this test alone."""
    server = NatsServer(tmp_path / "nats", access=TokenAccess(TOKEN))
    await server.start()
    bus = await Bus.connect(server.url, TOKEN, "fixture")
    await bus.ensure_streams(max_stream_bytes=2**30, retention_s=86_400, duplicate_window_s=600)
    await bus.close()
    yield server
    await server.stop()


@pytest.fixture
def nats_url(nats_server: NatsServer) -> tuple[str, str]:
    """(url, token) of `nats_server`."""
    return nats_server.url, TOKEN


@pytest.fixture
async def bus(nats_url: tuple[str, str]) -> AsyncIterator[Bus]:
    """A connection to `nats_server`."""
    connected = await Bus.connect(*nats_url, "test")
    yield connected
    await connected.close()
