"""Token buckets by key: so many at once, then so many a second. Bounded memory, however many keys come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from domain.bounded import keep_newest

MOST_KEYS: Final = 10_000


class Buckets:
    """Each key's bucket holds `burst`, and one comes back each `refill_us`. Beyond MOST_KEYS the oldest are full again."""

    def __init__(self, now_us: Callable[[], int], burst: int, refill_us: int) -> None:
        self._now_us = now_us
        self._burst_us = burst * refill_us
        self._refill_us = refill_us
        self._full_at_us: dict[str, int] = {}  # when all will have come back; who took last comes last

    def take(self, key: str, cost: int = 1) -> int:
        """Take `cost` and return 0; or, when there is not as much, take nothing and return the µs until there is."""
        if wait_us := self.wait_us(key, cost):
            return wait_us
        full_at_us = self._full_at(key, self._now_us()) + cost * self._refill_us
        keep_newest(self._full_at_us, key, full_at_us, MOST_KEYS)
        return 0

    def wait_us(self, key: str, cost: int = 1) -> int:
        """What `take` would return now."""
        now_us = self._now_us()
        full_at_us = self._full_at(key, now_us) + cost * self._refill_us
        return max(0, full_at_us - now_us - self._burst_us)

    def _full_at(self, key: str, now_us: int) -> int:
        """An empty bucket is the least there is: what is noted beyond that is of a clock that was set back since."""
        if self._full_at_us.get(key, 0) > now_us + self._burst_us:
            self._full_at_us[key] = now_us + self._burst_us
        return max(now_us, self._full_at_us.get(key, 0))
