"""Names of messages."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import InvalidInput
from domain.traces import OfArrival, OfReceipt, OfReject, parse_key

pytestmark = pytest.mark.clause("9.2a")
NUMBERS = st.integers(0, 10**18 - 1)
KEYS = st.one_of(
    st.builds(OfReceipt, st.integers(0, 9999), NUMBERS), st.builds(OfReject, NUMBERS),
    st.builds(OfArrival, st.integers(0, 2**32 - 1), NUMBERS, NUMBERS),
)  # fmt: skip


@given(KEYS)
def test_a_name_comes_back_as_it_went(key: OfReceipt | OfArrival | OfReject) -> None:
    assert parse_key(str(key)) == key


@given(st.text())
def test_any_text_is_a_name_or_a_clear_error(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        parse_key(text)


@pytest.mark.parametrize("text", ["", "3", "3-", "-3", "3-1-2", "at-1-2", "reject-", "3-٣", "3-1\n", "0x3-1", "3-" + "9" * 19])
def test_what_names_nothing_says_what_is_expected(text: str) -> None:
    with pytest.raises(InvalidInput, match="receipt"):
        parse_key(text)
