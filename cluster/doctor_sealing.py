"""The doctor's look at sealing: whether it is on, and whether the keys are there that open what is sealed."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.findings import Finding, Level, ok
from cluster.sealing import StreamSeal, missing_keys
from domain.errors import VitalgridError
from runtime.settings import Settings


def sealing(settings: Settings) -> Iterator[Finding]:
    """Data at rest. Nothing is made here."""
    try:
        missing = missing_keys(settings)
        StreamSeal(settings).check()
    except VitalgridError as error:
        yield Finding("sealing", Level.PROBLEM, str(error), f"put {settings.keys_dir} back from the backup")
        return
    if not settings.seals_files:
        yield ok("sealing", "off: new files of lake and snapshots lie on disk in clear (security.seal_files)")
    elif missing:
        yield ok("sealing", f"on: the next start makes the keys {' and '.join(missing)}")
    else:
        yield ok("sealing", f"on: whoever loses {settings.keys_dir} loses what is sealed; it belongs in a backup of its own")
