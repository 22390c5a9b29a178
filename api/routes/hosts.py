"""Hosts come and go: who they are, one more, one fewer. Clause 7.3.

An order is answered when it stands; its shards move meanwhile, and nothing stops being taken. What is ordered lasts
until the platform is started again: `hosts.count` says how many it begins with.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from api.asking import Asking
from api.errors import problems
from api.locators import in_region
from api.permissions import may
from api.routes.router import api_router
from api.schemas.hosts import HostsOut
from api.services import Backend, Behind
from domain import subjects
from domain.errors import Conflict, NotFound
from domain.host_orders import HostAct, HostOrder, HostsView
from domain.messages import encode
from domain.permissions import Action
from runtime.sql.records import note_write

router = api_router("/hosts", tags=["operation"])
HostRead = Annotated[Asking, may(Action.HOST_READ, at=in_region("operation"))]
HostManage = Annotated[Asking, may(Action.HOST_MANAGE, at=in_region("operation"))]
_ORDER_S: Final = 60.0  # a host takes some seconds to start
_REFUSED: Final = problems(NotFound, Conflict)


@router.get("")
async def list_hosts(_who: HostRead, behind: Behind) -> HostsOut:
    """The hosts, what each holds, and which shards are on their way."""
    return await _ordered(behind, HostOrder(HostAct.LIST))


@router.post("", status_code=201, responses=problems(Conflict))
async def add_host(who: HostManage, behind: Behind) -> HostsOut:
    """Start one host more; answered when it runs. As many shards move to it as make the hosts even."""
    return await _noted(behind, who, HostOrder(HostAct.ADD))


@router.post("/{name}/drain", status_code=202, responses=_REFUSED)
async def drain_host(who: HostManage, name: str, behind: Behind) -> HostsOut:
    """Let a host give all its shards to others, in good order; it stays, without any."""
    return await _noted(behind, who, HostOrder(HostAct.DRAIN, name))


@router.post("/{name}/resume", status_code=202, responses=_REFUSED)
async def resume_host(who: HostManage, name: str, behind: Behind) -> HostsOut:
    """Give a drained host shards again."""
    return await _noted(behind, who, HostOrder(HostAct.RESUME, name))


@router.delete("/{name}", status_code=202, responses=_REFUSED)
async def remove_host(who: HostManage, name: str, behind: Behind) -> HostsOut:
    """Drain a host, then end it, and keep one fewer. It is gone when `GET /hosts` names it no more."""
    return await _noted(behind, who, HostOrder(HostAct.REMOVE, name))


async def _noted(behind: Backend, who: Asking, order: HostOrder) -> HostsOut:
    answer = await _ordered(behind, order)
    await behind.write(note_write, behind.engine, behind.author(who), f"host.{order.act}", order.host or "-")
    return answer


async def _ordered(behind: Backend, order: HostOrder) -> HostsOut:
    answer = await behind.services.bus.ask(subjects.HOST_ORDERS, encode(order), _ORDER_S)
    return HostsOut.of(msgspec.json.decode(answer, type=HostsView))
