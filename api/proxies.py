"""Where a request comes from when it comes through a reverse proxy of ours.

A proxy adds the address that it was asked from at the end of X-Forwarded-For, whatever its client wrote there before. So the
list is believed from its end on, and only as long as those who wrote it are proxies of ours. `Forwarded` (RFC 7239) is
not read: with two headers a client could write the one that its proxy does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

Network = IPv4Network | IPv6Network


class TrustedProxies:
    """Whose word is taken for who asked."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = tuple(networks)
        self.trusts = lru_cache(maxsize=4_096)(self._trusts) if networks else _nobody

    def _trusts(self, address: str) -> bool:
        found = _normal(address)
        return found is not None and any(ip_address(found) in network for network in self._networks)

    def origin(self, peer: str, forwarded: Sequence[str]) -> str:
        """Who asked, when `peer` says `forwarded` (its X-Forwarded-For headers): the first from the end who is no proxy."""
        said = [part.strip() for header in forwarded for part in header.split(",")]
        origin = peer
        while said and self.trusts(origin):
            before = _normal(said.pop())
            if before is None:
                break
            origin = before
        return origin


def _nobody(_address: str) -> bool:
    return False


def _normal(address: str) -> str | None:
    """As sockets write it; None for what is no address. A proxy may put a port behind it."""
    if address.startswith("["):
        address = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        address = address.partition(":")[0]
    try:
        found = ip_address(address)
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return str(found)


class BehindProxies:
    """ASGI middleware around all else: `client` is who asked, when a trusted proxy asks for them."""

    def __init__(self, app: ASGIApp, proxies: TrustedProxies) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if scope["type"] == "http" and client is not None and self._proxies.trusts(client[0]):
            forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
            scope["client"] = (self._proxies.origin(client[0], forwarded), 0)
        await self._app(scope, receive, send)
