"""Requests that are made from the OpenAPI description, right and wrong ones: none meets an error of ours, and each is answered
as described. Clause 9.1b. `make test-long` has schemathesis make many more.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.tools import fuzz
from tests.running_platform import RunningPlatform, start_platform

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.clause("9.1b")]

SECONDS = {"fuzzing": 15, "coverage": 25}  # of each phase; what is not reached in them is the long test's
LONG_S = 400


@pytest.fixture
def open_platform(tmp_path: Path) -> Iterator[RunningPlatform]:
    """In profile `dev`, whose token may everything: elsewhere no one caller gets to see the inside of each route."""
    running = start_platform(tmp_path)
    yield running
    running.stop()


def test_no_request_that_fits_the_description_or_nearly_meets_an_error_of_ours(open_platform: RunningPlatform) -> None:
    for phase, seconds in SECONDS.items():
        assert_answered_as_described(open_platform, phase, examples=1, seconds=seconds)


@pytest.mark.long
@pytest.mark.timeout(4 * LONG_S)
def test_nor_do_many_requests_and_those_that_follow_from_each_other(open_platform: RunningPlatform) -> None:
    for phase in ("coverage", "fuzzing", "stateful"):
        assert_answered_as_described(open_platform, phase, examples=20, seconds=LONG_S)


def assert_answered_as_described(platform: RunningPlatform, phase: str, *, examples: int, seconds: float) -> None:
    code, said = fuzz(platform, phase=phase, examples=examples, seconds=seconds)
    assert code == 0, said.partition(" FAILURES ")[2][:6_000] or said[-6_000:]
    assert "Traceback" not in platform.log("api.log"), platform.log("api.log")[-3_000:]
