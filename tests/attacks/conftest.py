"""One platform for all attacks of a test run: every link speaks TLS, patience is short, and little is allowed."""

from __future__ import annotations

import pytest

from tests.attacks.isolation_drill import SETTINGS
from tests.running_platform import start_platform


@pytest.fixture(scope="package")
def platform(tmp_path_factory: pytest.TempPathFactory):
    settings = {
        "SECURITY__PROFILE": "standard", "LIMITS__INTRODUCTION_S": "1", "LIMITS__BODY_GRACE_S": "1", "LIMITS__UNREAD_S": "1",
        "LIMITS__LIVE_STREAMS": "16",
    }  # fmt: skip
    running = start_platform(tmp_path_factory.mktemp("attacked"), **settings, **SETTINGS)
    yield running
    running.stop()
