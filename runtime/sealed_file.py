"""Files sealed at rest with SM4-GCM, readable from any place in them. Clauses 7.2c, 9.3.

Layout: magic "VGSF" | version u8 | wrapped_bytes u16 | the file's wrapped key | chunks. A chunk is 64 KiB of content (the
last one less, perhaps nothing) and its tag. Numbers are little-endian.

Each file has a key of its own, made at random, used for this one writing and wrapped by the installation's key `lake`,
bound to the file's identity: what it is and where it belongs, which the reader has to know. So a file does not open in
another's place. A chunk's nonce is its number, and whether it is the last is bound to it: one that was changed, moved, or
cut off is found when it is read, and a file without its end when it is opened, because then the last chunk is looked at.
"""

from __future__ import annotations

import io
import os
import secrets
import struct
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from domain.errors import IntegrityViolation
from runtime.keys import KeyProvider, newest
from runtime.sm import GCM_NONCE_BYTES, GCM_TAG_BYTES, SM4_KEY_BYTES, sm4_gcm_open, sm4_gcm_seal

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

KEY: Final = "lake"
MAGIC: Final = b"VGSF"
CHUNK_BYTES: Final = 65_536
_VERSION: Final = 1
_FRONT: Final = struct.Struct("<4sBH")
_SEALED_BYTES: Final = CHUNK_BYTES + GCM_TAG_BYTES
_OPENED_KEPT: Final = 16  # chunks a reader keeps: 1 MiB
_LAST, _FURTHER = b"\1", b"\0"


def is_sealed(path: Path | str) -> bool:
    """Whether a file says of itself that it is sealed. Raises FileNotFoundError."""
    with Path(path).open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


class FileSeal:
    """Seals files under the key `lake` and opens them. Thread-safe; nothing is kept of a key beyond an open file.

    `writes`: whether new files are sealed; sealed ones are opened either way.
    """

    def __init__(self, keys: KeyProvider, *, writes: bool = True) -> None:
        self._keys = keys
        self.writes = writes

    def writer(self, file: BinaryIO, identity: str) -> SealedWriter:
        """Begin a sealed file on an empty one. It is whole only once the writer is closed; `file` stays open."""
        key = secrets.token_bytes(SM4_KEY_BYTES)
        wrapped = self._keys.wrap(KEY, key, _bound(identity))
        file.write(_FRONT.pack(MAGIC, _VERSION, len(wrapped)) + wrapped)
        return SealedWriter(file, key)

    def reader(self, path: Path | str, identity: str) -> SealedReader:
        """Open a sealed file. Raises IntegrityViolation, which names it, FileNotFoundError, KeyMissing or KeyGone."""
        return SealedReader(self._keys, Path(path), identity)

    def seal(self, content: bytes, identity: str) -> bytes:
        """A sealed file of `content`."""
        file = io.BytesIO()
        with self.writer(file, identity) as writer:
            writer.write(content)
        return file.getvalue()

    def read(self, path: Path | str, identity: str) -> bytes:
        """All that is in a sealed file; errors as of `reader`."""
        with self.reader(path, identity) as reader:
            return reader.read()

    def version_of(self, path: Path | str) -> int | None:
        """Under which version of the key a file is sealed, as it says of itself; None in clear. Raises FileNotFoundError."""
        with Path(path).open("rb") as file:
            front = file.read(_FRONT.size)
            if front[: len(MAGIC)] != MAGIC or len(front) < _FRONT.size:
                return None
            return self._keys.version_of(file.read(_FRONT.unpack(front)[2]))

    def newest(self) -> int:
        """The version of the key that new files are sealed under."""
        return newest(self._keys, KEY)


class SealedWriter(io.RawIOBase):
    """Takes content from its beginning to its end. As a context: left by an error, the file stays without its end."""

    def __init__(self, file: BinaryIO, key: bytes) -> None:
        self._file = file
        self._key = key
        self._buffer = bytearray()
        self._chunks = 0
        self._written_bytes = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written_bytes

    def write(self, content: ReadableBuffer, /) -> int:
        view = memoryview(content).cast("B")
        self._buffer += view
        self._written_bytes += len(view)
        whole = (len(self._buffer) - 1) // CHUNK_BYTES  # the last chunk is not known before the end
        if whole > 0:
            with memoryview(self._buffer) as buffer:
                for number in range(whole):
                    self._put(bytes(buffer[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]), _FURTHER)
            del self._buffer[: whole * CHUNK_BYTES]
        return len(view)

    def close(self) -> None:
        if not self.closed:
            self._put(bytes(self._buffer), _LAST)
            self._buffer.clear()
            super().close()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            super().close()

    def __del__(self) -> None:
        """An abandoned file gets no end."""

    def _put(self, content: bytes, place: bytes) -> None:
        self._file.write(sm4_gcm_seal(self._key, _nonce(self._chunks), content, place))
        self._chunks += 1


class SealedReader(io.RawIOBase):
    """Content of a sealed file from any place in it; a chunk is believed once it has opened. For one thread."""

    def __init__(self, keys: KeyProvider, path: Path, identity: str) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        self._opened: OrderedDict[int, bytes] = OrderedDict()
        self._place = 0
        try:
            self._key, self._begin = self._unwrapped(keys, identity)
            body = os.fstat(self._file.fileno()).st_size - self._begin
            self._chunks = max(1, -(-body // _SEALED_BYTES))
            self.size_bytes = body - self._chunks * GCM_TAG_BYTES
            self._chunk(self._chunks - 1)
        except BaseException:
            self._file.close()
            raise

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size_bytes}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int | None = -1, /) -> bytes:
        rest = max(0, self.size_bytes - self._place)
        wanted = rest if size is None or size < 0 else min(size, rest)
        content = b"".join(self._pieces(self._place, wanted))
        self._place += wanted
        return content

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        content = self.read(len(view))
        view[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._opened.clear()
        self._file.close()
        super().close()

    def _unwrapped(self, keys: KeyProvider, identity: str) -> tuple[bytes, int]:
        """The file's key, and where its chunks begin."""
        front = self._file.read(_FRONT.size)
        if len(front) < _FRONT.size or front[:4] != MAGIC:
            raise IntegrityViolation(f"{self._path} is no sealed file: its first bytes are {front[:4]!r}, expected {MAGIC!r}")
        _, version, length = _FRONT.unpack(front)
        if version != _VERSION:
            raise IntegrityViolation(f"{self._path} is sealed in version {version}, expected {_VERSION}")
        try:
            return keys.unwrap(KEY, self._file.read(length), _bound(identity)), _FRONT.size + length
        except IntegrityViolation as error:
            raise IntegrityViolation(f"{self._path} does not open as {identity}: {error}") from error

    def _pieces(self, start: int, length: int) -> Iterator[bytes]:
        end = start + length
        while start < end:
            number, offset = divmod(start, CHUNK_BYTES)
            piece = self._chunk(number)[offset : offset + end - start]
            yield piece
            start += len(piece)

    def _chunk(self, number: int) -> bytes:
        if number in self._opened:
            self._opened.move_to_end(number)
            return self._opened[number]
        sealed = os.pread(self._file.fileno(), _SEALED_BYTES, self._begin + number * _SEALED_BYTES)
        place = _LAST if number == self._chunks - 1 else _FURTHER
        try:
            content = sm4_gcm_open(self._key, _nonce(number), sealed, place)
        except IntegrityViolation as error:
            raise IntegrityViolation(f"{self._path} is damaged: chunk {number} of {self._chunks} does not open") from error
        self._opened[number] = content
        if len(self._opened) > _OPENED_KEPT:
            self._opened.popitem(last=False)
        return content


def _bound(identity: str) -> bytes:
    return MAGIC + bytes([_VERSION]) + identity.encode()


def _nonce(number: int) -> bytes:
    """Never twice under one key: a file's key is for one writing."""
    return number.to_bytes(GCM_NONCE_BYTES, "big")
