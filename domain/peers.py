"""As far as an address tells one peer from another."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

_TRANSLATED: Final = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address behind a translator


@lru_cache(maxsize=4_096)
def peer_of(address: str) -> str:
    """Who has one address of an IPv6 /64 has all: they are one peer. An IPv4 address in IPv6 is that, also behind a
    translator (RFC 6052); others are themselves.
    """
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    if found in _TRANSLATED:
        return str(IPv4Address(found.packed[-4:]))
    return str(found.ipv4_mapped or ip_network((found, 64), strict=False))
