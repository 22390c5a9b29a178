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


_FOR_EACH = {"DOORS__DEVICE_READINGS_A_S": "1000000", "LIMITS__LIVE_STREAMS": "4000"}  # what some of them are told apart
_shared: list[RunningPlatform] = []


@contextlib.contextmanager
def shared_platform() -> Iterator[None]:
    """Meanwhile `own_platform` gives one and the same, unless a folder is named or one wants it alone: for smoke runs."""
    with own_platform(**_FOR_EACH) as (platform, _):
        _shared.append(platform)
        try:
            yield
        finally:
            _shared.clear()


@contextlib.contextmanager
def own_platform(
    data_dir: Path | None = None, *, alone: bool = False, **settings: str
) -> Iterator[tuple[RunningPlatform, Target]]:
    """Start a platform, in `data_dir` or a folder that is deleted afterwards; stop it whatever happens.

    `settings`: what it has otherwise than users, as VITALGRID_* variables. `alone`: it counts all that is in the lake.
    """
    if _shared and data_dir is None and not alone:
        yield _shared[0], _target(_shared[0])
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        platform = start_platform(data_dir or Path(folder) / "var", **AS_USERS_HAVE_IT, **settings)
        try:
            yield platform, _target(platform)
        finally:
            platform.stop()


def _target(platform: RunningPlatform) -> Target:
    return local_target(Settings(data_dir=platform.data_dir), platform.token)
