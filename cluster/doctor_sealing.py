"""The doctor's look at sealing: whether it is on, whether the keys are there that open what is sealed, and how old they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cluster.findings import Finding, Level, ok
from cluster.key_kinds import KINDS
from cluster.sealing import StreamSeal, missing_keys
from domain.errors import VitalgridError
from domain.instants import US_PER_S
from domain.ports import Clock
from runtime.clock import SystemClock
from runtime.key_provider import provider_of
from runtime.settings import Settings

_OLD_DAYS: Final = 366  # a year, and a day for who rotates on the same date


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


def keys(settings: Settings, clock: Clock | None = None) -> Iterator[Finding]:
    """Whether each key that the platform rotates was rotated within a year. Nothing is made here."""
    since_us = (clock or SystemClock()).now_us() - _OLD_DAYS * 86_400 * US_PER_S
    try:
        provider = provider_of(settings)
        newest = {name: provider.history(name)[-1:] for name, kind in KINDS.items() if kind.refused is None}
    except VitalgridError as error:
        yield Finding("keys", Level.PROBLEM, str(error), f"put {settings.keys_dir} back from the backup")
        return
    old = [name for name, last in newest.items() if any((one.made_us or 0) < since_us for one in last)]
    if old:
        says = f"in use for more than a year, or nobody noted since when: {', '.join(old)}"
        yield Finding("keys", Level.WARNING, says, f"vitalgrid keys rotate {old[0]}; then back up {settings.keys_dir}")
    else:
        yield ok("keys", "none is older than a year")
