"""One application over real stores in a temporary folder, and a client that is signed in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from api.app import create_app
from api.paths import PREFIX
from api.services import Services
from domain import subjects
from domain.errors import Unavailable
from runtime.access_journal import IN_MEMORY, AccessJournal
from runtime.access_trail import SOURCE as ACCESSES
from runtime.authorisation import CedarAuthoriser
from runtime.batches import NewMessage
from runtime.certificates import Authority
from runtime.clock import ManualClock
from runtime.device_authority import DeviceAuthority
from runtime.sealing import Sealer
from runtime.sql.credentials import EnrolmentRules
from tests.callers import ADMINISTRATOR, NOBODY, TOKEN, TOKEN_OF_NOBODY, KnownCallers
from tests.sql_fixtures import copy_of


class NoBus:
    """Stands where a bus is needed only to start the application."""

    is_connected = False

    async def core_subscribe(self, subject: str, callback: Any) -> None:
        pass

    async def core_publish(self, subject: str, payload: bytes) -> None:
        pass

    async def ask(self, subject: str, payload: bytes, timeout_s: float = 2.0) -> bytes:
        raise Unavailable(f"nobody answers at {subject}")

    async def publish(self, subject: str, payload: bytes, message_id: str) -> int:
        raise Unavailable("there is no bus in this test")

    async def publish_all(self, messages: Sequence[NewMessage]) -> None:
        """Takes notes of accesses, so that protected records are shown for as long as a test takes."""
        if any(message.subject != subjects.audit(ACCESSES) for message in messages):
            raise Unavailable("there is no bus in this test")


class BusAway(NoBus):
    """Takes no notes of accesses: they stay in the journal."""

    async def publish_all(self, messages: Sequence[NewMessage]) -> None:
        raise Unavailable("the bus is away")


def services_of(**parts: Any) -> Services:
    """Services for routes that need only some parts; whatever touches a missing one fails loudly."""
    missing: Any = None
    names = ("engine", "lake", "readings", "large_readings", "intake", "log", "passwords", "second_factors", "sign_in_rules")
    defaults = dict.fromkeys(names, missing) | {"bus": NoBus(), "accesses": AccessJournal.open(IN_MEMORY)}
    callers = KnownCallers({TOKEN: ADMINISTRATOR, TOKEN_OF_NOBODY: NOBODY})
    defaults["device_authority"] = DeviceAuthority(Authority(Path("none")))
    defaults |= {"enrolment_rules": EnrolmentRules(3_600_000_000, 86_400_000_000, 3_600_000_000)}
    defaults |= {"clock": ManualClock(), "callers": callers, "region_id": "sz", "shards": 4} | parts
    return Services(**({"authoriser": CedarAuthoriser.of_package(defaults["clock"])} | defaults))


API: Final = f"{PREFIX}/"


def client_of(app: FastAPI, token: str | None = TOKEN, *, under: str = "/") -> httpx.AsyncClient:
    """Shows `token`; paths are `under` that one: `API` for those of its routes."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=f"http://test{under}", headers=headers)


@pytest.fixture
async def plain_app() -> AsyncIterator[FastAPI]:
    """The application without stores: enough for what needs none."""
    app = create_app(services_of(), background=False)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def plain_client(plain_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(plain_app) as client:
        yield client


@pytest.fixture
def engine(sqlite_template: Path, tmp_path: Path, sealer: Sealer) -> Iterator[Engine]:
    """A real SQLite database with the present schema."""
    with copy_of(sqlite_template, tmp_path, sealer) as opened:
        yield opened


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def app(engine: Engine, clock: ManualClock) -> AsyncIterator[FastAPI]:
    """The application over the business database; bus and lake are not there."""
    made = create_app(services_of(engine=engine, clock=clock), background=False)
    async with made.router.lifespan_context(made):
        yield made


@pytest.fixture
async def client(app: FastAPI, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    """Signed in as an administrator, or as the test's mark `as_role("nurse@sz.h001/icu")` says."""
    mark = request.node.get_closest_marker("as_role")
    async with client_of(app, TOKEN if mark is None else mark.args[0], under=API) as connected:
        yield connected


async def make(client: httpx.AsyncClient, path: str, body: Any, **headers: str) -> Any:
    """POST and return the answer, which must be a success."""
    response = await client.post(path, json=body, headers=headers)
    assert response.is_success, response.text
    return response.json()
