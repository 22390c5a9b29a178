"""One application over real stores in a temporary folder, and a client that is signed in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.app import create_app
from api.auth import Caller, Role
from api.services import Services
from domain.errors import Unauthenticated
from runtime.clock import ManualClock

TOKEN = "a-token-of-the-tests"


class OneToken:
    """Knows one administrator."""

    async def caller_of(self, token: str) -> Caller:
        if token != TOKEN:
            raise Unauthenticated("the token is unknown or was revoked")
        return Caller("ada", Role.ADMINISTRATOR)


class NoBus:
    """Stands where a bus is needed only to start the application."""

    is_connected = False

    async def core_subscribe(self, subject: str, callback: Any) -> None:
        pass


def services_of(**parts: Any) -> Services:
    """Services for routes that need only some parts; whatever touches a missing one fails loudly."""
    missing: Any = None
    defaults = dict.fromkeys(("engine", "lake", "readings", "intake"), missing) | {"bus": NoBus()}
    return Services(**(defaults | {"clock": ManualClock(), "tokens": OneToken(), "region_id": "sz", "shards": 4} | parts))


def client_of(app: FastAPI, token: str | None = TOKEN) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)


@pytest.fixture
async def plain_app() -> AsyncIterator[FastAPI]:
    """The application without stores: enough for what needs none."""
    app = create_app(services_of())
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def plain_client(plain_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(plain_app) as client:
        yield client
