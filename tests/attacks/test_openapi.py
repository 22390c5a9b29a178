"""Requests that are made from the OpenAPI description, right and wrong ones: none meets an error of ours. Clause 9.1b.

`make attacks` has schemathesis make many more.
"""

from __future__ import annotations

import pytest

from tests.attacks.tools import fuzz
from tests.running_platform import RunningPlatform

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.clause("9.1b")]
EXAMPLES = 1  # of each operation and each kind
SECONDS = 15


def test_no_request_that_fits_the_description_or_nearly_meets_an_error_of_ours(platform: RunningPlatform) -> None:
    code, said = fuzz(platform, examples=EXAMPLES, seconds=SECONDS)
    assert code == 0, said[-6_000:]
    assert "Traceback" not in platform.log("api.log"), platform.log("api.log")[-3_000:]
