"""Faults that a run acts out on the platform itself, not in the simulated world."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping

logger = logging.getLogger(__name__)


def kill_a_host(pids: Mapping[str, int]) -> str | None:
    """SIGKILL the first host process by name; returns its name, or None when none is known or it is gone already."""
    hosts = {role: pid for role, pid in pids.items() if role.startswith("host:") and pid > 1}
    if not hosts:
        return None
    role = min(hosts)
    try:
        os.kill(hosts[role], signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        logger.warning("a host could not be killed", extra={"host": role})
        return None
    return role.removeprefix("host:")
