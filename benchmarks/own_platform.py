"""A platform for one benchmark: new, with the settings that users have, and gone afterwards."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cluster.run_target import local_target
from runtime.settings import Settings
from scenarios.target import Target
from tests.running_platform import RunningPlatform, start_platform

AS_USERS_HAVE_IT = {"SHARDS": "16", "HOSTS__SNAPSHOT_INTERVAL_S": "15", "LAKE__FLUSH_INTERVAL_S": "5"}  # not as tests do


@contextlib.contextmanager
def own_platform(data_dir: Path | None = None, **settings: str) -> Iterator[tuple[RunningPlatform, Target]]:
    """Start a platform, in `data_dir` or a folder that is deleted afterwards; stop it whatever happens.

    `settings`: what it has otherwise than users, as VITALGRID_* variables.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        platform = start_platform(data_dir or Path(folder) / "var", **AS_USERS_HAVE_IT, **settings)
        try:
            yield platform, local_target(Settings(data_dir=platform.data_dir), platform.token)
        finally:
            platform.stop()
