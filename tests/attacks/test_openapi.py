"""Requests that are made from the OpenAPI description, right and wrong ones: none meets an error of ours. Clause 9.1b.

`make attacks` has schemathesis make many more.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.tools import fuzz
from tests.running_platform import RunningPlatform, start_platform

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.clause("9.1b")]

EXAMPLES = 1  # of each operation and each kind
SECONDS = 15


@pytest.fixture
def open_platform(tmp_path: Path) -> Iterator[RunningPlatform]:
    """In profile `dev`, whose token may everything: elsewhere no one caller gets to see the inside of each route."""
    running = start_platform(tmp_path)
    yield running
    running.stop()


def test_no_request_that_fits_the_description_or_nearly_meets_an_error_of_ours(open_platform: RunningPlatform) -> None:
    code, said = fuzz(open_platform, examples=EXAMPLES, seconds=SECONDS)
    assert code == 0, said.partition(" FAILURES ")[2][:6_000] or said[-6_000:]
    assert "Traceback" not in open_platform.log("api.log"), open_platform.log("api.log")[-3_000:]
