"""Which addresses are one peer."""

from __future__ import annotations

import pytest

from domain.peers import peer_of


@pytest.mark.clause("9.1b")
@pytest.mark.parametrize(("address", "peer"), [
    ("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("64:ff9b::192.0.2.7", "192.0.2.7"),
    ("64:ff9b::c000:208", "192.0.2.8"), ("2001:db8:1:2::7", "2001:db8:1:2::/64"), ("2001:db8:1:2:9::8", "2001:db8:1:2::/64"),
    ("fe80::1%eth0", "fe80::/64"), ("testclient", "testclient"), ("", ""),
])  # fmt: skip
def test_who_has_an_ipv6_network_is_one_peer_and_an_ipv4_address_is_one_wherever_it_stands(address: str, peer: str) -> None:
    assert peer_of(address) == peer
