"""Folders that are the platform's alone: made so, and closed where somebody made them for all to read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from domain.errors import Forbidden, InvalidInput

OWNER_ONLY: Final = 0o077  # a umask, by which what is made is its owner's alone; as bits of a mode: what others may
_USED: Final = "lock"  # a platform was started in the folder
_OF_THE_DISK: Final = "lost+found"


def make_private(folder: Path) -> bool:
    """Make `folder` for its owner alone. One that others may look into is closed to them: whether that was to be done.

    Raises Forbidden for one that is not ours to close, InvalidInput for one that cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not is_open_to_others(folder):
            return False
        if why := why_not_closed(folder):
            raise Forbidden(why)
        folder.chmod(0o700)
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be made or used as a folder: {error.strerror}") from None
    return True


def is_open_to_others(folder: Path) -> bool:
    """Whether a folder that is there lets anybody but its owner in."""
    return bool(folder.stat().st_mode & OWNER_ONLY)


def why_not_closed(folder: Path) -> str | None:
    """Why a folder that others may look into is not closed to them by us; None where it is.

    What is shared, like /tmp or /srv, is somebody's who would miss it.
    """
    found = folder.stat()
    what = f"others may look into {folder} (mode {stat.S_IMODE(found.st_mode):04o})"
    if found.st_uid != os.geteuid():
        return f"{what}, and it is user {found.st_uid}'s: let that user close it (chmod 700), or choose another folder"
    if found.st_mode & stat.S_ISVTX or not _is_ours(folder):
        return f"{what}, and other things lie in it: close it (chmod 700), or choose a folder of its own"
    return None


def _is_ours(folder: Path) -> bool:
    """Whether a platform has used it, or nobody has."""
    return (folder / _USED).exists() or not {path.name for path in folder.iterdir()} - {_OF_THE_DISK}
