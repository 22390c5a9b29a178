"""For tests of the API over a real bus: each makes its own `app`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from tests.unit.api.conftest import API, client_of


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Signed in as an administrator, at the API's prefix."""
    async with client_of(app, under=API) as connected:
        yield connected
