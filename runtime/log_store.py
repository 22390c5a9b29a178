"""The log's files: tiles and bundles that never change, and the checkpoint that names them. C2SP tlog-tiles.

A checkpoint is on disk only after everything it stands for: bundles, then tiles from the leaves up, then the checkpoint,
each written, synced, renamed and its folder synced before the next. A path that is there must hold the same bytes:
what was once in the log cannot become something else. Whatever is there beyond the checkpoint (a process that died in
between) is written again, with the same bytes, because the entries and their order were fixed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from domain.errors import IntegrityViolation, NotFound
from domain.merkle import HASH_BYTES, leaf_hash, root_of
from domain.signed_notes import Checkpoint, Note
from domain.tiles import ENTRIES, HEIGHT, WIDTH, Tile, TiledTree, bundle, entries_of, grown, tile_of
from runtime.disk import Disk

CHECKPOINT: Final = "checkpoint"
KEYS: Final = "vkeys"  # whom to verify the log with, a line each; to be compared with what its owner says elsewhere


class LogReader:
    """Reads a log's files; many may, also while one process writes. Knows no keys: what it gives is to be verified."""

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self.folder = folder
        self._disk = disk or Disk()

    def note(self) -> bytes | None:
        """The signed checkpoint; None while there is none."""
        try:
            return self._disk.read(self.folder / CHECKPOINT)
        except FileNotFoundError:
            return None

    def checkpoint(self) -> Checkpoint | None:
        """What the signed checkpoint says. Raises InvalidInput when it says nothing."""
        raw = self.note()
        return None if raw is None else Checkpoint.parse(Note.parse(raw).text)

    def keys(self) -> bytes | None:
        """The keys that the log says it signs with; None while there is none."""
        try:
            return self._disk.read(self.folder / KEYS)
        except FileNotFoundError:
            return None

    def read(self, tile: Tile) -> bytes:
        """A tile or bundle. Of one that has become full since, its beginning. Raises NotFound."""
        for kept in dict.fromkeys((tile, tile.full)):
            try:
                content = self._disk.read(self.folder / kept.path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            return content if kept == tile else _beginning(tile, content)
        raise NotFound(f"the log has no {tile.path}")

    def tree(self, size: int) -> TiledTree:
        return TiledTree(size, self.read)

    def entry(self, index: int, size: int) -> bytes:
        """One entry of a log of `size`. Raises InvalidInput, NotFound, IntegrityViolation."""
        tile = tile_of(ENTRIES, index // WIDTH, size)
        return entries_of(tile, self.read(tile))[index % WIDTH]


class LogStore(LogReader):
    """The one writer. Make it with `open`; `append` as often as it takes, `publish` what it returned, `close`."""

    def __init__(self, folder: Path, disk: Disk, unlock: Callable[[], None]) -> None:
        super().__init__(folder, disk)
        self._unlock = unlock
        self._settled: set[Path] = set()  # folders whose names this process has brought to disk
        self.size = 0

    @classmethod
    def open(cls, folder: Path, disk: Disk | None = None) -> Self:
        """Take the log of `folder`, which is made when it is not there.

        Raises Conflict when another process writes to it, IntegrityViolation when its tiles do not have the root that its
        checkpoint says, InvalidInput when the checkpoint cannot be read.
        """
        disk = disk or Disk()
        disk.make_folder(folder)
        store = cls(folder, disk, disk.lock(folder / "lock"))
        try:
            said = store.checkpoint()
            if said is not None and store.root(said.size) != said.root:
                raise IntegrityViolation(
                    f"the log in {folder} is damaged: its {said.size} entries have another root than signed"
                )
            store.size = said.size if said else 0
        except NotFound as error:
            store.close()
            raise IntegrityViolation(f"the log in {folder} is damaged: {error}") from error
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Let others write. Nothing is pending."""
        self._unlock()

    def root(self, size: int) -> bytes:
        """The root of the first `size` entries, from the tiles as they are on disk."""
        return root_of(size, self.tree(size).node)

    def append(self, entries: Sequence[bytes]) -> tuple[int, bytes]:
        """Bring entries behind those of the checkpoint to disk; the size and root that may then be signed and published.

        Until they are published nobody sees them, and the next call begins at the same place: with the same entries, and
        perhaps more. Raises IntegrityViolation when another entry is there already, OSError when the disk fails.
        """
        for tile, content in self._bundles(entries):
            self._put(tile, content)
        for tile, content in grown(self.size, [leaf_hash(entry) for entry in entries], self.read):
            self._put(tile, content)
        size = self.size + len(entries)
        return size, self.root(size)

    def publish(self, size: int, note: bytes) -> None:
        """Make `note`, the signed checkpoint of what `append` returned, the log's. Raises OSError."""
        self._write(self.folder / CHECKPOINT, note)
        before, self.size = self.size, size
        self._sweep(before, size)

    def tell_keys(self, vkeys: Sequence[str]) -> None:
        """Say whom to verify the log with. Raises OSError."""
        content = "".join(f"{vkey}\n" for vkey in vkeys).encode()
        if self.keys() != content:
            self._write(self.folder / KEYS, content)

    def _bundles(self, entries: Sequence[bytes]) -> Iterator[tuple[Tile, bytes]]:
        number, width = divmod(self.size, WIDTH)
        last = Tile(ENTRIES, number, width)
        pending = [*(entries_of(last, self.read(last)) if width else ()), *entries]
        for start in range(0, len(pending), WIDTH):
            some = pending[start : start + WIDTH]
            yield Tile(ENTRIES, number + start // WIDTH, len(some)), bundle(some)

    def _put(self, tile: Tile, content: bytes) -> None:
        path = self.folder / tile.path
        self._settle(path.parent)
        try:
            present = self._disk.read(path)
        except FileNotFoundError:
            self._write(path, content)
            return
        if present != content:
            raise IntegrityViolation(f"{tile.path} of the log is there already, with other bytes")
        self._disk.sync_folder(path.parent)  # whoever wrote it may have died before this

    def _write(self, path: Path, content: bytes) -> None:
        self._settle(path.parent)
        temporary = path.with_name(f".{path.name}.tmp")
        self._disk.write(temporary, content)
        self._disk.sync(temporary)
        self._disk.rename(temporary, path)
        self._disk.sync_folder(path.parent)

    def _settle(self, folder: Path) -> None:
        """Make a folder, and those above it, certain to be there after a power cut."""
        if folder in self._settled:
            return
        if folder != self.folder:
            self._settle(folder.parent)
            self._disk.make_folder(folder)
        self._disk.sync_folder(folder.parent)
        self._settled.add(folder)

    def _sweep(self, before: int, after: int) -> None:
        """Delete partial tiles that have become full: nobody needs them, `read` gives their contents from the full ones."""
        level = 0
        while after >> HEIGHT * level:
            full = range(before >> HEIGHT * (level + 1), after >> HEIGHT * (level + 1))
            for number in full:
                for kind in (level, ENTRIES) if level == 0 else (level,):
                    path = self.folder / Tile(kind, number).path
                    self._disk.remove_folder(path.with_name(f"{path.name}.p"))
            level += 1


def _beginning(tile: Tile, content: bytes) -> bytes:
    """What a partial tile was, from the full one."""
    if tile.level == ENTRIES:
        return bundle(entries_of(tile.full, content)[: tile.width])
    return content[: tile.width * HASH_BYTES]
