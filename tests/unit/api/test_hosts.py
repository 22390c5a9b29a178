"""Hosts: listed, added, drained and removed, through whoever supervises them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy import Engine

from api.app import create_app
from cluster.host_orders import HostOrders
from domain import subjects
from domain.errors import Conflict, NotFound
from domain.host_orders import HostState, HostsView, HostView
from runtime.clock import ManualClock
from runtime.sql.access import list_writes
from tests.unit.api.conftest import API, NoBus, client_of, services_of


class Supervisor(NoBus):
    """The bus and, at its other end, a supervisor of two hosts."""

    def __init__(self) -> None:
        self.states = {"host-1": HostState.WORKING, "host-2": HostState.WORKING}
        self.orders = HostOrders(self)

    async def ask(self, subject: str, payload: bytes, timeout_s: float = 2.0) -> bytes:
        assert subject == subjects.HOST_ORDERS
        return await self.orders.answer(payload, subject)

    def view(self) -> HostsView:
        hosts = [HostView(name, 7, state, [0, 1], 40, 3, 0.4) for name, state in self.states.items()]
        return HostsView(len(hosts), hosts, [2])

    async def add(self) -> str:
        self.states["host-3"] = HostState.WORKING
        return "host-3"

    def drain(self, name: str) -> None:
        if name not in self.states:
            raise NotFound(f"host {name!r} is unknown")
        self.states[name] = HostState.DRAINING

    def resume(self, name: str) -> None:
        self.states[name] = HostState.WORKING

    def remove(self, name: str) -> None:
        raise Conflict(f"host {name} is the last that works")


@pytest.fixture
async def client(engine: Engine, clock: ManualClock) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(services_of(engine=engine, clock=clock, bus=Supervisor()), background=False)
    async with app.router.lifespan_context(app), client_of(app, under=API) as connected:
        yield connected


async def test_hosts_are_listed_as_their_supervisor_sees_them(client: httpx.AsyncClient) -> None:
    body = (await client.get("hosts")).json()
    assert (body["wanted"], body["moving"]) == (2, [2])
    assert body["hosts"][0] == {
        "name": "host-1", "pid": 7, "state": "working", "shards": [0, 1], "devices": 40, "lag": 3, "silent_s": 0.4,
    }  # fmt: skip


async def test_orders_are_answered_by_the_hosts_as_they_stand_then_and_recorded(
    client: httpx.AsyncClient, engine: Engine
) -> None:
    added = await client.post("hosts", headers={"X-Reason": "a busy night"})
    assert added.status_code == 201
    assert [host["name"] for host in added.json()["hosts"]] == ["host-1", "host-2", "host-3"]
    drained = await client.post("hosts/host-1/drain")
    assert (drained.status_code, drained.json()["hosts"][0]["state"]) == (202, "draining")
    resumed = await client.post("hosts/host-1/resume")
    assert resumed.json()["hosts"][0]["state"] == "working"
    written = [(row["action"], row["target"], row["reason"]) for row in list_writes(engine, limit=9).rows]
    assert sorted(written) == [
        ("host.add", "-", "a busy night"), ("host.drain", "host-1", None), ("host.resume", "host-1", None),
    ]  # fmt: skip


async def test_what_cannot_be_done_is_said_and_not_recorded(client: httpx.AsyncClient, engine: Engine) -> None:
    assert (await client.delete("hosts/host-1")).status_code == 409
    assert (await client.post("hosts/host-9/drain")).status_code == 404
    assert list_writes(engine, limit=9).rows == []


async def test_no_hosts_without_a_token(client: httpx.AsyncClient) -> None:
    del client.headers["Authorization"]
    assert (await client.get("hosts")).status_code == 401


async def test_without_a_supervisor_hosts_are_unavailable(app, client_without_bus: httpx.AsyncClient) -> None:
    assert (await client_without_bus.get("hosts")).status_code == 503


@pytest.fixture
async def client_without_bus(app) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app, under=API) as connected:
        yield connected
