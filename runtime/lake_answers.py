"""Answers that the lake's files have given, kept for those who ask the same again.

Files never change, so what a question finds in some of them is the same for ever: the key is the question and the files
that can have its rows. A commit that brings other devices or other times changes nothing about it; what it brings for
this question is in a file that was not among them, and so makes another key. Clauses 7.1b, 7.1c.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

import polars as pl

KEPT_BYTES: Final = 64 * 2**20
_LARGEST_SHARE: Final = 8  # an answer that takes more than an eighth of the room is not kept


class KeptAnswers:
    """Those asked for last, up to `most_bytes`. Thread-safe; two who ask at one time may both find out."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[Hashable, tuple[int, pl.DataFrame]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, find_out: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        """The answer to `key`, by `find_out` unless it is here. Frames are never changed, so they are shared."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][1]
        answer = find_out()
        size_bytes = int(answer.estimated_size())
        if size_bytes <= self._most_bytes // _LARGEST_SHARE:
            self._keep(key, size_bytes, answer)
        return answer

    def _keep(self, key: Hashable, size_bytes: int, answer: pl.DataFrame) -> None:
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = (size_bytes, answer)
            self._bytes += size_bytes
            while self._bytes > self._most_bytes:
                _, (oldest_bytes, _) = self._kept.popitem(last=False)
                self._bytes -= oldest_bytes
