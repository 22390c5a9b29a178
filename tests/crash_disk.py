"""A disk in memory that can lose its power before any step, and then has what a real one may have then.

Content is certain once the file was synced, names once their folder was. What was not may be there, be gone, or, of
content, be there in part; `after_cut` tells which of these it is to be.
"""

from __future__ import annotations

import random
from pathlib import Path

from runtime.disk import Disk

POLICIES = ("nothing", "names", "chance")  # what of the uncertain is there: nothing; names without content; some of each


class PowerCut(BaseException):
    """Nothing runs on, no handler either."""


class CrashDisk(Disk):
    def __init__(self, root: Path) -> None:
        self._root = root
        self._content: dict[int, bytes | None] = {0: None}  # by inode; None: a folder
        self._synced: dict[int, bytes | None] = {0: None}
        self._names: dict[Path, int] = {root: 0}
        self._certain: dict[Path, int] = {root: 0}
        self.steps = 0
        self.cut_before: int | None = None
        self.fail_at: int | None = None  # this step raises OSError, and does nothing

    def _step(self) -> None:
        self.steps += 1
        if self.steps == self.cut_before:
            raise PowerCut
        if self.steps == self.fail_at:
            raise OSError(5, "Input/output error")

    def read(self, path: Path) -> bytes:
        content = self._content[self._names[path]] if path in self._names else None
        if content is None:
            raise FileNotFoundError(path)
        return content

    def write(self, path: Path, content: bytes) -> None:
        self._step()
        assert path.parent in self._names, f"{path.parent} is not there"
        inode = self._names.setdefault(path, len(self._content))
        self._content[inode] = content

    def sync(self, path: Path) -> None:
        self._step()
        self._synced[self._names[path]] = self.read(path)

    def rename(self, path: Path, to: Path) -> None:
        self._step()
        self._names[to] = self._names.pop(path)

    def make_folder(self, path: Path) -> None:
        self._step()
        assert path.parent in self._names, f"{path.parent} is not there"
        if path not in self._names:
            self._names[path] = inode = len(self._content)
            self._content[inode] = self._synced[inode] = None

    def sync_folder(self, path: Path) -> None:
        self._step()
        assert path in self._names, f"{path} is not there"
        for kept in [name for name in self._certain if name.parent == path and name not in self._names]:
            del self._certain[kept]
        self._certain |= {name: inode for name, inode in self._names.items() if name.parent == path}

    def remove_folder(self, path: Path) -> None:
        self._step()
        for name in [name for name in self._names if name == path or path in name.parents]:
            del self._names[name]

    def lock(self, path: Path):
        return lambda: None

    def after_cut(self, policy: str, chance: random.Random) -> CrashDisk:
        """The disk as it is when the power is back."""
        names = dict(self._certain)
        for name in self._names.keys() | self._certain.keys():
            if self._names.get(name) != self._certain.get(name) and (
                policy == "names" or (policy == "chance" and chance.random() < 0.5)
            ):
                names.pop(name, None)
                if name in self._names:
                    names[name] = self._names[name]
        again = CrashDisk(self._root)
        for name in sorted(names, key=lambda name: len(name.parts)):
            inode = names[name]
            if name != self._root and name.parent not in again._names:
                continue  # its folder is gone
            content = self._content[inode]
            if content is not None and self._synced.get(inode) != content:
                content = b"" if policy != "chance" else content[: chance.randrange(len(content) + 1)]
            again._names[name] = number = len(again._content)
            again._content[number] = content
        again._certain, again._synced = dict(again._names), dict(again._content)
        return again
