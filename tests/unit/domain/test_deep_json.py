"""What others send is never too deep to be refused in order. Clause 9.4."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from domain import enrolment, hospital_systems
from domain.errors import InvalidInput

DEEP = b'{"unknown": ' + b"[" * 100_000


@pytest.mark.clause("9.4")
@pytest.mark.parametrize(
    "decode", [enrolment.decode_asked, hospital_systems.decode_asked], ids=["enrolment", "hospital systems"]
)
@pytest.mark.parametrize("member", [b"unknown", b"type"])
def test_a_question_too_deep_to_read_is_refused(decode: Callable[[bytes], object], member: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode(DEEP.replace(b"unknown", member))
