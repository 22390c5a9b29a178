"""This machine is told from all others."""

from __future__ import annotations

import pytest

from domain.loopback import is_loopback


@pytest.mark.parametrize(("host", "is_it"), [
    ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
    ("10.0.0.1", False), ("localhost.example", False), ("", False),
])  # fmt: skip
def test_loopback_is_told_from_the_rest(host, is_it):
    assert is_loopback(host) is is_it
