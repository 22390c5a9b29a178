"""Which KeyProvider is used: the one place where that is said. A cryptographic module is put in here, in place of SoftKeys."""

from __future__ import annotations

from pathlib import Path

from runtime.keys import KeyProvider
from runtime.settings import Settings
from runtime.soft_keys import SoftKeys


def provider_in(folder: Path) -> KeyProvider:
    """The keys whose folder this is: the installation's, a witness's, or a copy of keys. Makes nothing."""
    return SoftKeys(folder)


def provider_of(settings: Settings) -> KeyProvider:
    """The installation's keys."""
    return provider_in(settings.keys_dir.resolve())
