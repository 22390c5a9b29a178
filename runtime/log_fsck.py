"""All of the access log on disk, recomputed and compared: names every file and entry that is damaged, not only the first.

An entry lies in three places: with its event, in its bundle, as a hash in its tile. What two of them agree on is right.
From the right hashes follow all tiles, every root that was signed, and the checkpoint. Reads on while the log grows.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby, takewhile
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from domain.errors import IntegrityViolation, InvalidInput, NotFound, VitalgridError
from domain.log_emptying import Explanations
from domain.log_entries import commitment, read_entry
from domain.merkle import EMPTY_ROOT, leaf_hash, node_hash, perfect_root
from domain.signed_notes import Checkpoint, Note
from domain.tiles import ENTRIES, WIDTH, Tile, bundle, entries_of, hashes_of, tile_of
from runtime.log_events import FILE, Event, events_between
from runtime.log_signing import LogSigner
from runtime.log_store import CHECKPOINT, KEYS, LogReader

_PARTIALS: Final = ".p"
_TIMES: Final = 3  # while erasures empty events as they are read


class Findings(NamedTuple):
    """`damages`: a sentence each, with the file in front. `files` were looked at. `emptied`: events without content."""

    entries: int
    files: int
    damages: list[str]
    emptied: int


def check_log(folder: Path, signer: LogSigner, unexplained_before: int = 0) -> Findings:
    """Look at everything in `folder`. Never raises for what is damaged.

    An event without content that no erasure explains is damaged, but for those below `unexplained_before`.
    """
    for _ in range(_TIMES):
        check = _Check(folder, signer)
        found = check.run()
        unexplained = check.unexplained(unexplained_before)
        if not unexplained or check.is_up_to_date():
            break
    return found._replace(damages=[*found.damages, *unexplained])


class _Check:
    def __init__(self, folder: Path, signer: LogSigner) -> None:
        self._folder = folder
        self._reader = LogReader(folder)
        self._signer = signer
        self._damages: list[str] = []
        self._explanations = Explanations()
        self._size = 0
        self._files: set[Path] = set()
        self._rows: list[list[bytes]] = []  # of each level, the right hashes of the tile that is open
        self._numbers: list[int] = []
        self._frontier: list[tuple[int, bytes]] = []  # perfect subtrees so far, the largest first: (level, hash)

    def run(self) -> Findings:
        checkpoint = self._checkpoint()
        self._keys()
        signed = self._signed()
        size = checkpoint.size if checkpoint else max(signed, default=0)
        self._size = size
        has_events = self._database_is_whole()
        for number in range(-(-size // WIDTH)):
            self._bundle(tile_of(ENTRIES, number, size), signed, has_events=has_events)
        for level, hashes in enumerate(self._rows):
            if hashes:
                self._tile(level, hashes)
        if checkpoint and self._root() != checkpoint.root:
            self._say(CHECKPOINT, f"the {size} entries have another root than it says")
        return Findings(size, len(self._files), self._damages, self._explanations.emptied)

    def unexplained(self, before: int) -> list[str]:
        """Of what `run` found: events without content, from `before` on, that no entry explains."""
        return [
            f"{FILE}: the event of entry {max(first, before)}{f' to {last}' if last > max(first, before) else ''} "
            "is gone, and no entry says that an erasure took it"
            for first, last in self._explanations.unexplained()
            if last >= before
        ]

    def is_up_to_date(self) -> bool:
        """Whether the log is as large as it was: else what explains may have come since."""
        with contextlib.suppress(VitalgridError, OSError):
            checkpoint = self._reader.checkpoint()
            return checkpoint is None or checkpoint.size <= self._size
        return True

    def _say(self, where: str, what: str) -> None:
        self._damages.append(f"{where}: {what}")

    # ---- beside the tree

    def _checkpoint(self) -> Checkpoint | None:
        try:
            note = self._reader.note()
            if note is not None:
                self._files.add(self._folder / CHECKPOINT)
                return self._signer.verify(note)
            self._say(CHECKPOINT, "is missing")
        except (VitalgridError, OSError) as error:
            self._say(CHECKPOINT, str(error))
        return None

    def _keys(self) -> None:
        try:
            told, known = (self._reader.keys() or b""), [key.vkey for key in self._signer.public_keys()]
            self._files.add(self._folder / KEYS)
            lines = told.decode(errors="replace").split("\n")[:-1]
            is_as_written = "".join(f"{line}\n" for line in lines).encode() == told
            if not is_as_written or lines != [vkey for vkey in known if vkey in lines or vkey not in self._unused()]:
                self._say(KEYS, "does not have the keys that the log signs with")
        except (VitalgridError, OSError) as error:
            self._say("keys", str(error))

    def _unused(self) -> set[str]:
        """Keys that may not be told yet: of each kind those that are newer than the one that signed the checkpoint."""
        with contextlib.suppress(VitalgridError, OSError):  # which is said of the checkpoint
            note = self._reader.note()
            by = {one.key_id for one in Note.parse(note).signatures} if note else set()
            kinds = groupby(self._signer.public_keys(), lambda key: key.kind)  # of each kind the newest first
            return {key.vkey for _, keys in kinds for key in takewhile(lambda key: key.key_id not in by, keys)}
        return set()

    def _database_is_whole(self) -> bool:
        """Whether events can be read at all."""
        self._files.add(self._folder / FILE)
        if not (self._folder / FILE).exists():
            self._say(FILE, "is missing")
            return False
        try:
            problems = [row[0] for row in self._query("PRAGMA integrity_check")]
        except sqlite3.DatabaseError as error:
            problems = [str(error)]
        for problem in problems if problems != ["ok"] else ():
            self._say(FILE, problem)
        return problems == ["ok"]

    def _signed(self) -> dict[int, bytes]:
        """Which root was signed for which size."""
        with contextlib.suppress(sqlite3.DatabaseError):  # which is said of the file as a whole
            return dict(self._query("SELECT size, root FROM signed"))
        return {}

    def _query(self, query: str) -> list[tuple]:  # type: ignore[type-arg]
        with contextlib.closing(sqlite3.connect(f"{(self._folder / FILE).resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()

    # ---- entries

    def _bundle(self, tile: Tile, signed: dict[int, bytes], *, has_events: bool) -> None:
        start = tile.number * WIDTH
        entries = self._entries(tile)
        hashes = self._hashes(tile._replace(level=0))
        events = self._events(start, tile.width) if has_events else {}
        right: list[bytes] = []
        right_entries: list[bytes] = []
        for at in range(tile.width):
            event, entry, hashed = events.get(start + at), entries and entries[at], hashes and hashes[at]
            candidates = [leaf_hash(event.entry) if event else None, leaf_hash(entry) if entry else None, hashed or None]
            chosen = _agreed(candidates)
            right.append(chosen)
            right_entries += [one for one in (event.entry if event else None, entry) if one and leaf_hash(one) == chosen][:1]
            for where, found in zip((FILE, tile.path, tile._replace(level=0).path), candidates, strict=True):
                if found not in (None, chosen):
                    self._say(where, f"entry {start + at} is not the one that was logged")
            if has_events:
                self._event(start + at, event)
            self._grow(chosen)
            if signed.get(start + at + 1) not in (None, self._root()):
                self._say(FILE, f"another root was signed for {start + at + 1} entries than they have")
        if len(right_entries) == tile.width:
            self._partials(tile, right_entries)
        self._add(right, 0)

    def _entries(self, tile: Tile) -> list[bytes] | None:
        try:
            return entries_of(tile, self._content(tile))
        except (VitalgridError, OSError) as error:
            self._say(tile.path, _reason(error))
        return None

    def _hashes(self, tile: Tile) -> list[bytes] | None:
        """Of a tile of the lowest level; what is wrong with it as a whole is said when all its hashes are known."""
        try:
            return hashes_of(tile, self._content(tile))
        except (VitalgridError, OSError):
            return None

    def _content(self, tile: Tile) -> bytes:
        self._files.add(self._folder / tile.path)
        return self._reader.read(tile)

    def _events(self, start: int, width: int) -> dict[int, Event]:
        try:
            return {event.at: event for event in events_between(self._folder, start, start + width)}
        except VitalgridError as error:
            self._say(FILE, str(error))
            return {}

    def _event(self, index: int, event: Event | None) -> None:
        """That it is the event which its entry is a commitment to."""
        if event is None:
            self._say(FILE, f"entry {index} is missing")
            return
        if event.salt is None and event.event is None:
            self._explanations.meet_emptied(index)
            return
        try:
            said = read_entry(event.entry)
            if event.salt is not None and event.event is not None and commitment(event.salt, event.event) == said.commitment:
                self._explanations.meet(index, said.by, event.event)
                return
        except (msgspec.MsgspecError, UnicodeDecodeError, TypeError):
            pass
        self._say(FILE, f"the event of entry {index} is not the one that was logged")

    # ---- the tree

    def _add(self, hashes: Sequence[bytes], level: int) -> None:
        """Right hashes of a level, none beyond the tile that is open."""
        if level == len(self._rows):
            self._rows.append([])
            self._numbers.append(0)
        row = self._rows[level]
        row += hashes
        if len(row) == WIDTH:
            self._tile(level, row)
            self._rows[level] = []
            self._numbers[level] += 1
            self._add([perfect_root(row)], level + 1)

    def _tile(self, level: int, right: Sequence[bytes]) -> None:
        tile = Tile(level, self._numbers[level], len(right))
        try:
            found = hashes_of(tile, self._content(tile))
            wrong = [at for at, (one, other) in enumerate(zip(found, right, strict=True)) if one != other]
            if wrong and level:  # of the lowest level each is named as an entry
                self._say(tile.path, f"hash {wrong[0]} does not follow from the tiles below it")
        except (VitalgridError, OSError) as error:
            self._say(tile.path, _reason(error))
        self._partials(tile, right)

    def _partials(self, tile: Tile, right: Sequence[bytes]) -> None:
        """Narrower ones of earlier checkpoints, which somebody may still ask for."""
        for width, path in self._narrower(tile):
            self._files.add(path)
            expected = bundle(right[:width]) if tile.level == ENTRIES else b"".join(right[:width])
            try:
                if path.read_bytes() != expected:
                    self._say(str(path.relative_to(self._folder)), "is not the beginning of what came after it")
            except FileNotFoundError:
                continue  # it became full just now, and is not needed any more
            except OSError as error:
                self._say(str(path.relative_to(self._folder)), _reason(error))

    def _narrower(self, tile: Tile) -> Iterator[tuple[int, Path]]:
        full = self._folder / tile.full.path
        for path in sorted(full.with_name(f"{full.name}{_PARTIALS}").glob("*")):
            if path.name.isascii() and path.name.isdigit() and int(path.name) < tile.width:
                yield int(path.name), path

    def _grow(self, leaf: bytes) -> None:
        level, grown = 0, leaf
        while self._frontier and self._frontier[-1][0] == level:
            grown = node_hash(self._frontier.pop()[1], grown)
            level += 1
        self._frontier.append((level, grown))

    def _root(self) -> bytes:
        if not self._frontier:
            return EMPTY_ROOT
        root = self._frontier[-1][1]
        for _, left in self._frontier[-2::-1]:
            root = node_hash(left, root)
        return root


def _agreed(candidates: Sequence[bytes | None]) -> bytes:
    """What most say; where no two agree, the first that says anything."""
    said = Counter(one for one in candidates if one is not None)
    return said.most_common(1)[0][0] if said else bytes(32)


def _reason(error: Exception) -> str:
    if isinstance(error, NotFound):
        return "is missing"
    return "is damaged" if isinstance(error, (IntegrityViolation, InvalidInput)) else f"cannot be read ({error})"
