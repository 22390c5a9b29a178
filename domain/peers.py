"""As far as an address tells one peer from another."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network


@lru_cache(maxsize=4_096)
def peer_of(address: str) -> str:
    """Who has one address of an IPv6 /64 has all: they are one peer. An IPv4 address in IPv6 is that; others are themselves."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or ip_network((found, 64), strict=False))
