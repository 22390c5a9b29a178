"""A log's tree and entries in files that never change: tiles of 256 hashes, bundles of 256 entries. C2SP tlog-tiles.

Tile `number` of `level` holds the roots of 256 perfect subtrees of 256**level entries. The last one of a level may be
narrower; then its width is part of its name, so that what a name stands for stays what it is. A partial tile is never
hashed into the level above.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from domain.errors import IntegrityViolation, InvalidInput
from domain.merkle import HASH_BYTES, perfect_root

WIDTH: Final = 256
HEIGHT: Final = 8  # levels of the tree in one tile
MAX_ENTRY_BYTES: Final = 2**16 - 1
ENTRIES: Final = -1  # the "level" of bundles, which have the entries themselves
_MOST_LEVEL: Final = 63
_GROUP: Final = 1000
_PATH: Final = re.compile(r"(entries|0|[1-9]\d?)/((?:x\d{3}/){0,6}\d{3})(?:\.p/([1-9]\d{0,2}))?")
_LENGTH: Final = struct.Struct(">H")
_CACHED_TILES: Final = 256


class Tile(NamedTuple):
    """Which tile, or, with level ENTRIES, which bundle."""

    level: int
    number: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Below the log's prefix: `tile/0/x001/x234/067`, `tile/entries/000.p/17`."""
        groups = [f"{self.number % _GROUP:03d}"]
        rest = self.number // _GROUP
        while rest:
            groups.append(f"x{rest % _GROUP:03d}")
            rest //= _GROUP
        level = "entries" if self.level == ENTRIES else str(self.level)
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{level}/{'/'.join(reversed(groups))}{partial}"

    @property
    def full(self) -> Tile:
        """The tile that this one is or becomes."""
        return self._replace(width=WIDTH)


Read = Callable[[Tile], bytes]


def parse_tile(path: str) -> Tile:
    """The tile of a path, with or without the `tile/` in front. Raises InvalidInput for any other spelling of it."""
    found = _PATH.fullmatch(path.removeprefix("tile/"))
    if found:
        level, groups, width = found.groups()
        number = int(groups.replace("x", "").replace("/", ""))
        tile = Tile(ENTRIES if level == "entries" else int(level), number, int(width or WIDTH))
        if tile.level <= _MOST_LEVEL and tile.width <= WIDTH and tile.path == f"tile/{path.removeprefix('tile/')}":
            return tile
    raise InvalidInput(f"{path[:80]!r} is no tile: expected such as 'tile/0/x001/234' or 'tile/entries/000.p/17'")


def tile_of(level: int, number: int, size: int) -> Tile:
    """Tile `number` of `level` as it is in a tree of `size`. Raises InvalidInput when the tree does not have it."""
    width = min(WIDTH, (size >> HEIGHT * max(level, 0)) - number * WIDTH)
    if width <= 0:
        raise InvalidInput(f"a log of {size} entries has no tile {number} at level {level}")
    return Tile(level, number, width)


def tiles_of(size: int) -> Iterator[Tile]:
    """All tiles of a tree, level by level from the leaves."""
    level = 0
    while (hashes := size >> HEIGHT * level) > 0:
        yield from (tile_of(level, number, size) for number in range(-(-hashes // WIDTH)))
        level += 1


def bundles_of(size: int) -> Iterator[Tile]:
    """All bundles of entries."""
    return (tile_of(ENTRIES, number, size) for number in range(-(-size // WIDTH)))


def hashes_of(tile: Tile, content: bytes) -> list[bytes]:
    """The hashes in a tile. Raises IntegrityViolation when it has not as many as its name says."""
    if len(content) != tile.width * HASH_BYTES:
        raise IntegrityViolation(f"{tile.path} has {len(content)} bytes: expected {tile.width * HASH_BYTES}")
    return [content[at : at + HASH_BYTES] for at in range(0, len(content), HASH_BYTES)]


def bundle(entries: Sequence[bytes]) -> bytes:
    """Entries as they stand in a bundle: each with its length in front. Raises InvalidInput for one that is too long."""
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise InvalidInput(f"an entry of the log has {len(entry)} bytes: expected at most {MAX_ENTRY_BYTES}")
    return b"".join(_LENGTH.pack(len(entry)) + entry for entry in entries)


def entries_of(tile: Tile, content: bytes) -> list[bytes]:
    """The entries in a bundle. Raises IntegrityViolation when it has not as many as its name says."""
    entries, at = [], 0
    while at < len(content):
        start = at + _LENGTH.size
        if start > len(content):
            break
        at = start + _LENGTH.unpack_from(content, at)[0]
        entries.append(content[start:at])
    if at != len(content) or len(entries) != tile.width:
        raise IntegrityViolation(f"{tile.path} is no bundle of {tile.width} entries")
    return entries


def grown(before: int, leaf_hashes: Sequence[bytes], read: Read) -> Iterator[tuple[Tile, bytes]]:
    """The tiles that appear when leaves are added to a tree of `before`, from the leaves up. `read` gives present ones."""
    level, added = 0, list(leaf_hashes)
    while added:
        number, width = divmod(before >> HEIGHT * level, WIDTH)
        last = Tile(level, number, width)
        pending = [*(hashes_of(last, read(last)) if width else ()), *added]
        added = []
        for start in range(0, len(pending), WIDTH):
            hashes = pending[start : start + WIDTH]
            yield Tile(level, number, len(hashes)), b"".join(hashes)
            if len(hashes) == WIDTH:
                added.append(perfect_root(hashes))
            number += 1
        level += 1


class TiledTree:
    """A tree of `size` as its tiles have it; `node` is what `domain.merkle` asks for. Tiles that were read are kept."""

    def __init__(self, size: int, read: Read) -> None:
        self.size = size
        self._hashes = lru_cache(_CACHED_TILES)(lambda tile: hashes_of(tile, read(tile)))

    def node(self, level: int, index: int) -> bytes:
        """The hash of a perfect subtree within the tree."""
        tile_level, height = divmod(level, HEIGHT)
        number, at = divmod(index << height, WIDTH)
        hashes = self._hashes(tile_of(tile_level, number, self.size))[at : at + (1 << height)]
        if len(hashes) != 1 << height:
            raise InvalidInput(f"a log of {self.size} entries has no whole subtree {index} at level {level}")
        return perfect_root(hashes)
