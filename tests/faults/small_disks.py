"""Disks that can run full, be read-only, and be copied as a power cut leaves them: ext4 images, loop-mounted. Needs root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

_MIB: Final = 2**20
_CRUMB_BYTES: Final = 4096


def why_none() -> str | None:
    """Why no disk can be mounted here; None where it can."""
    if os.geteuid() != 0:
        return "mounting disk images needs root"
    missing = [tool for tool in ("mkfs.ext4", "mount", "umount") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is not installed"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices here"
    return None


class SmallDisk:
    """One image, mounted at `folder` from `mount` to `unmount`. What lies on it outlives that."""

    def __init__(self, folder: Path, size_mib: int, options: str = "loop") -> None:
        self.folder = folder
        self.image = folder.with_name(f"{folder.name}.image")
        self._options = options
        folder.mkdir(parents=True, exist_ok=True)
        with self.image.open("wb") as file:
            file.truncate(size_mib * _MIB)
        _run("mkfs.ext4", "-q", "-m", "0", self.image)
        self.mount()

    @property
    def free_bytes(self) -> int:
        room = os.statvfs(self.folder)
        return room.f_bavail * room.f_frsize

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"

    def mount(self) -> None:
        _run("mount", "-o", self._options, self.image, self.folder)

    def remount(self, how: str) -> None:
        """`ro` or `rw`."""
        _run("mount", "-o", f"remount,{how}", self.folder)

    def unmount(self) -> None:
        """At once, and for good once nobody uses it any more."""
        subprocess.run(["umount", "--lazy", self.folder], check=False, stderr=subprocess.DEVNULL)

    def fill(self, leave_bytes: int = 0) -> None:
        """Take all room but `leave_bytes`."""
        with self._filler.open("ab") as filler:
            with contextlib.suppress(OSError):
                os.posix_fallocate(filler.fileno(), 0, self._filler.stat().st_size + max(self.free_bytes - leave_bytes, 1))
            while self.free_bytes > leave_bytes:  # what fallocate left over
                try:
                    filler.write(b"\0" * _CRUMB_BYTES)
                    filler.flush()
                except OSError:
                    break

    def make_room(self) -> None:
        """Give back what `fill` took."""
        self._filler.unlink(missing_ok=True)

    def lose_power(self) -> None:
        """From now on what a power cut would have left: what was fsynced, and of the rest whatever was written by chance.

        The image is copied as it lies there, with the file system still mounted, and the copy takes its place. Whoever
        writes to it has to be dead. The method is proven by what it finds: a stream that is not fsynced is gone.
        """
        copy = self.image.with_suffix(".after")
        _run("cp", "--sparse=always", self.image, copy)
        self.unmount()
        copy.replace(self.image)
        self.mount()


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
