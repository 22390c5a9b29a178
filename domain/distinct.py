"""How many different ones there were, in bounded memory: exact up to a thousand, near that beyond. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

EXACT_UP_TO: Final = 1024
_HASHES: Final = 2**64


class Distinct:
    """Counts different texts and forgets them: of their hashes the EXACT_UP_TO smallest are kept (twice as many for a while).

    Beyond that many the count is an estimate, within about three in a hundred: the closer together the smallest hashes lie,
    the more there are (Bar-Yossef et al. 2002). Hashes are Python's, so other in each process: texts are never found again.
    """

    __slots__ = ("_below", "_kept")

    def __init__(self) -> None:
        self._kept: set[int] = set()
        self._below = _HASHES  # what is not is not among the smallest

    def add(self, texts: Iterable[str]) -> None:
        below = self._below
        self._kept.update(hashed for text in texts if (hashed := hash(text) % _HASHES) < below)
        if len(self._kept) > 2 * EXACT_UP_TO:
            self._prune()

    def _prune(self) -> None:
        smallest = sorted(self._kept)[:EXACT_UP_TO]
        self._kept, self._below = set(smallest), smallest[-1]  # which is kept already

    def __len__(self) -> int:
        if self._below == _HASHES:
            return len(self._kept)
        return (EXACT_UP_TO - 1) * _HASHES // sorted(self._kept)[EXACT_UP_TO - 1]
