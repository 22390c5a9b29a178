"""What a witness says of a log, and how a log asks it to: C2SP tlog-cosignature and tlog-witness. Pure.

A cosignature is a witness's word that a checkpoint is the longest of this log that it knows at a time, and begins with
every one it signed before. Whoever asks shows that with a proof from the size that the witness has.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final, Self

from domain.errors import InvalidInput
from domain.signed_notes import DECIMAL, consistency_text, read_hashes

ADD_CHECKPOINT: Final = "/add-checkpoint"
SIZE_MEDIA_TYPE: Final = "text/x.tlog.size"
SIGNATURE_BYTES: Final = 64
_TIME: Final = struct.Struct(">Q")
_LATEST_S: Final = 2**63 - 1


def cosigned_text(text: bytes, at_s: int) -> bytes:
    """What is signed of a checkpoint's text."""
    return b"cosignature/v1\ntime %d\n%b" % (at_s, text)


def timed(at_s: int, signature: bytes) -> bytes:
    """A cosignature as it stands in a signature line."""
    return _TIME.pack(at_s) + signature


def time_and_signature(value: bytes) -> tuple[int, bytes]:
    """The parts of what `timed` gave. Raises InvalidInput for other bytes."""
    if len(value) != _TIME.size + SIGNATURE_BYTES:
        raise InvalidInput(f"a cosignature has {len(value)} bytes: expected {_TIME.size + SIGNATURE_BYTES}")
    at_s = int(_TIME.unpack_from(value)[0])
    if at_s > _LATEST_S:
        raise InvalidInput("the time of a cosignature is beyond all times")
    return at_s, value[_TIME.size :]


def checkpoint_path(origin: str) -> str:
    """Where a witness shows the last checkpoint of a log that it signed."""
    return f"/{hashlib.sha256(origin.encode()).hexdigest()}/checkpoint"


@dataclass(frozen=True, slots=True)
class Submission:
    """A checkpoint for a witness to sign; `hashes` show that it begins with the `old` entries the witness knows."""

    old: int
    hashes: tuple[bytes, ...]
    note: bytes

    def to_bytes(self) -> bytes:
        return b"old %d\n%b\n%b" % (self.old, consistency_text(self.hashes), self.note)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises InvalidInput."""
        head, gap, note = raw.partition(b"\n\n")
        try:
            first, *lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError:
            first, lines = "", []
        word, _, old = first.partition(" ")
        if not gap or word != "old" or not DECIMAL.fullmatch(old):
            raise InvalidInput("this is no submission: expected 'old <size>', hashes, an empty line, a checkpoint")
        return cls(int(old), read_hashes(lines), note)
