"""A whole platform, and for tests of the API over a real bus a client: each of them makes its own `app`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import FastAPI

from tests.running_platform import RunningPlatform, start_platform
from tests.unit.api.conftest import API, client_of


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Signed in as an administrator, at the API's prefix."""
    async with client_of(app, under=API) as connected:
        yield connected


@pytest.fixture(scope="package")  # it ends with the last of them: while other tests run it would take their processor
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """One platform for all tests that use it, or kill what comes back by itself; tests that break more start their own."""
    running = start_platform(tmp_path_factory.mktemp("platform"))
    yield running
    running.stop()
