"""Orders of an operator to the hosts, as they come over the bus from the API (`domain.host_orders`)."""

from __future__ import annotations

from cluster.supervisor import Supervisor
from domain.host_orders import HostAct, decode_order
from domain.messages import encode


class HostOrders:
    """Hands orders to the supervisor; `answer` is a handler for `Bus.answer`."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    async def answer(self, payload: bytes, _subject: str) -> bytes:
        """The hosts as they stand then. Raises InvalidInput, NotFound, Conflict, Unavailable as the supervisor says."""
        order, supervisor = decode_order(payload), self._supervisor
        match order.act:
            case HostAct.LIST:
                pass
            case HostAct.ADD:
                await supervisor.add()
            case HostAct.DRAIN:
                supervisor.drain(order.host)
            case HostAct.RESUME:
                supervisor.resume(order.host)
            case HostAct.REMOVE:
                supervisor.remove(order.host)
        return encode(supervisor.view())
