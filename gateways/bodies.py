"""How many bodies of requests a sender may have under way: what has come of them is in memory until they are whole.

A body that comes slowly is read to its end, within the times of the server; of those, one sender has few. Clauses 8.1, 9.1b.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

from domain.errors import TooManyRequests
from domain.ports import Sender

MOST_BODIES: Final = 32  # of a sender at once; most are there with their request, and are under way for no time at all
_WAIT_S: Final = 2.0


class Bodies:
    """One for all requests of a door."""

    def __init__(self) -> None:
        self._under_way: Counter[int] = Counter()  # by the sender's handle

    @contextlib.contextmanager
    def one_of(self, sender: Sender) -> Iterator[None]:
        """While it is read. Raises TooManyRequests, before anything of it is, when the sender has too many."""
        handle = sender.handle
        if self._under_way[handle] >= MOST_BODIES:
            said = f"{MOST_BODIES} requests of this sender are under way: send it again once they have come"
            raise TooManyRequests(said, _WAIT_S)
        self._under_way[handle] += 1
        try:
            yield
        finally:
            self._under_way[handle] -= 1
            if not self._under_way[handle]:
                del self._under_way[handle]
