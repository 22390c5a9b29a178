"""Where Ray of this machine keeps its sockets and logs: a folder for one start, which nobody else gets into.

Ray lets everybody write to its folders, wherever they are, and follows what is put there. So they lie in one that is ours
alone. It is in the folder for temporary files, because the path of a socket has 107 bytes at most and `data_dir` may be long.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Final

from runtime.durable import write_secret

logger = logging.getLogger(__name__)

_PREFIX: Final = "vitalgrid-"
_INSIDE: Final = "r"  # Ray gives its own folder to everybody: it is one inside
_SOCKET_BYTES: Final = 107
_IN_RAYS: Final = len(f"/{_PREFIX}{'0' * 12}/{_INSIDE}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.10")
_LAST_WRITES_S: Final = 3.0


class RayFolder:
    """`note` says which folder there is, so that a start after a kill -9 deletes what was left. For one process at a time."""

    def __init__(self, note: Path) -> None:
        self._note = note

    def renew(self) -> Path:
        """A new folder for Ray's `_temp_dir`; the former is deleted. Raises OSError."""
        self.remove()
        outer = _temporary() / f"{_PREFIX}{secrets.token_hex(6)}"
        write_secret(self._note, str(outer).encode())  # before it is there: nothing is left that nobody knows of
        outer.mkdir(mode=0o700)
        inner = outer / _INSIDE
        inner.mkdir(mode=0o700)
        return inner

    def remove(self) -> None:
        """Delete the folder with all sessions in it. Ray's processes have been ended; their last writes may be under way."""
        outer = self._noted()
        if outer is None:
            return
        ends_s = time.monotonic() + _LAST_WRITES_S
        while _is_own(outer):
            shutil.rmtree(outer, ignore_errors=True)
            if time.monotonic() > ends_s:
                logger.warning("Ray's folder of an earlier start cannot be deleted: %s", outer)
                return
        self._note.unlink(missing_ok=True)

    def _noted(self) -> Path | None:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            path = Path(self._note.read_text())
            if path.name.startswith(_PREFIX):
                return path
        return None


def _is_own(folder: Path) -> bool:
    """Whether it is there, a folder, and of this user."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _temporary() -> Path:
    """That of this process, if the path is short and nobody else may rename what is ours there; else everybody's."""
    folder = Path(tempfile.gettempdir())
    mode = folder.stat().st_mode
    is_short = len(os.fsencode(folder)) + _IN_RAYS <= _SOCKET_BYTES
    is_ours = bool(mode & stat.S_ISVTX) or not mode & 0o022
    return folder if is_short and is_ours else Path("/tmp")  # noqa: S108 (what is made there is new, and closed to others)
