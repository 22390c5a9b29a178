"""What each shard has to do, as far as that decides which host holds it: the devices it has, once they are counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from domain.messages import ShardHeld

_STANDS_STILL_S: Final = 3.0
_SHARE: Final = 0.05  # a change of less is none


class ShardLoad:
    """Shards' devices as their hosts report them, taken over when they have stood still.

    While a fleet is registered, one host has counted its part and another has not: shards would move for nothing, and
    would not move back.
    """

    def __init__(self) -> None:
        self.by_shard: dict[int, float] = {}
        self._seen: dict[int, float] = {}
        self._seen_s = 0.0

    def look(self, held: Iterable[ShardHeld], now_s: float) -> None:
        """Take a look at what hosts reported; `now_s` is monotonic."""
        found = {shard.shard: float(shard.devices) for shard in held}
        if any(abs(devices - self._seen.get(shard, 0.0)) > _SHARE * devices for shard, devices in found.items()):
            self._seen |= found
            self._seen_s = now_s
        elif now_s - self._seen_s >= _STANDS_STILL_S:
            self.by_shard |= found
