"""What Ray reads from the environment at the moment it is imported; so this is set before anything imports Ray."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

_REPOSITORY: Final = Path(__file__).resolve().parent.parent


def prepare_ray() -> None:
    """Loopback only, a token (of this run's own unless given), no telemetry; workers import this very code.

    Call before importing Ray.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # what makes Ray listen on loopback only, on Linux too
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # leave accelerator variables alone
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (so it is called); hosts are no background work, as which Ray starts them
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # given where a Ray that runs is joined
    paths = [str(_REPOSITORY), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))
