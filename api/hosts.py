"""What the hosts say of themselves once a second: who holds which shard, and how far it has come."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import msgspec

from domain import subjects
from domain.messages import HostHeartbeat, ShardHeld
from domain.ports import Clock
from runtime.bus import Bus

logger = logging.getLogger(__name__)

FRESH_US: Final = 5_000_000
_decoder: Final = msgspec.json.Decoder(HostHeartbeat)


@dataclass(frozen=True, slots=True)
class HighWater:
    """Up to which stream time all shards with devices have been worked through; None while that is not known of one.

    `silent_shards`: those that nobody holds, and those that were taken some seconds ago and have not come to any time yet.
    """

    time_us: int | None
    silent_shards: tuple[int, ...]


class Hosts:
    """The newest heartbeat of each host. `listen` once; reads never block."""

    def __init__(self, clock: Clock, shards: int) -> None:
        self._clock = clock
        self._shards = shards
        self._newest: dict[str, HostHeartbeat] = {}
        self._ever_busy: set[int] = set()
        self._timeless_since_us: dict[int, int] = {}  # by shard

    async def listen(self, bus: Bus) -> None:
        await bus.core_subscribe(subjects.HOST_HEARTBEATS, self.receive)

    def receive(self, payload: bytes, subject: str) -> None:
        try:
            beat = _decoder.decode(payload)
        except msgspec.DecodeError:
            logger.warning("a heartbeat cannot be read", extra={"subject": subject})
            return
        self._newest[beat.host] = beat
        self._ever_busy.update(held.shard for held in beat.shards if held.devices)
        for held in self.held().values():
            if held.devices and not held.high_water_us:
                self._timeless_since_us.setdefault(held.shard, self._clock.now_us())
            else:
                self._timeless_since_us.pop(held.shard, None)

    def alive(self) -> list[HostHeartbeat]:
        """Hosts heard of lately."""
        now_us = self._clock.now_us()
        return [beat for beat in self._newest.values() if now_us - beat.at_us < FRESH_US]

    def held(self) -> dict[int, ShardHeld]:
        """Each shard that a living host holds, under its highest epoch."""
        shards = sorted((held for beat in self.alive() for held in beat.shards), key=lambda held: held.epoch)
        return {held.shard: held for held in shards}

    def holder(self, shard: int) -> HostHeartbeat | None:
        """The living host that holds a shard under its highest epoch."""
        held = [(one.epoch, beat) for beat in self.alive() for one in beat.shards if one.shard == shard]
        return max(held, key=lambda pair: pair[0])[1] if held else None

    def missing(self) -> list[int]:
        """Shards that nobody holds."""
        return sorted(set(range(self._shards)) - set(self.held()))

    def high_water(self) -> HighWater:
        """See HighWater. Shards that never had a device do not count."""
        held, now_us = self.held(), self._clock.now_us()
        stuck = {shard for shard, since_us in self._timeless_since_us.items() if now_us - since_us >= FRESH_US}
        silent = tuple(sorted((self._ever_busy - set(held)) | stuck))
        times = [shard.high_water_us for shard in held.values() if shard.devices]
        is_known = times and not silent and min(times) > 0  # 0: it has no state, and has come to nothing yet
        return HighWater(min(times) if is_known else None, silent)
