"""What Ray reads from the environment at the moment it is imported; so this is set before anything imports Ray."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from domain.errors import Unavailable

_REPOSITORY: Final = Path(__file__).resolve().parent.parent


def check_ray_tls() -> None:
    """Raises Unavailable when a certificate that Ray is told to use cannot be read: Ray itself would say a port is in use."""
    if os.environ.get("RAY_USE_TLS") != "1":
        return
    for name in ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"):
        path = Path(os.environ.get(name, ""))
        if not path.is_file() or not os.access(path, os.R_OK):
            raise Unavailable(f"Ray cannot speak TLS: {name} is {str(path)!r}, expected a file that can be read")


def prepare_ray(tls: Mapping[str, str] | None = None) -> None:
    """Loopback only, a token (of this run's own unless given), no telemetry; workers import this very code.

    `tls`: variables by which Ray's processes speak TLS with each other; certificates that are given already win. Call before
    importing Ray.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # what makes Ray listen on loopback only, on Linux too
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # leave accelerator variables alone
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (so it is called); hosts are no background work, as which Ray starts them
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # given where a Ray that runs is joined
    os.environ["AUTOSCALER_METRIC_PORT"] = "-1"  # its monitor would serve numbers of a cluster that never grows, in clear
    for name, value in (tls or {}).items():
        os.environ[name] = value if name == "RAY_USE_TLS" else os.environ.get(name, value)
    paths = [str(_REPOSITORY), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))
