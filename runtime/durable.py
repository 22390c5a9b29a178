"""Files that are on disk when a call returns, power cut or not; and those among them that nobody else may read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def fsync(path: Path) -> None:
    """Bring a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_secret(path: Path, content: bytes) -> None:
    """Write `content` to `path`, readable by its owner only: there is the old file or the new one, never half of one."""
    temporary = _written(path, content)
    temporary.replace(path)
    fsync(path.parent)


def create_secret(path: Path, content: bytes) -> None:
    """As `write_secret`, of a file that is new. Raises FileExistsError; of two who create one at once, one succeeds."""
    temporary = _written(path, content)
    try:
        path.hardlink_to(temporary)
    finally:
        temporary.unlink()
    fsync(path.parent)


def overwrite(path: Path) -> None:
    """Put zeros where the content of `path` lies, on disk, then delete it. What other names the file has show zeros too."""
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    fsync(path.parent)


def _written(path: Path, content: bytes) -> Path:
    """A file beside `path` with its content to be, fsynced."""
    _make_private(path.parent)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Path(temporary)


def _make_private(folder: Path) -> None:
    """Make what is missing of a folder, for its owner only."""
    if not folder.exists():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        fsync(folder.parent)
