"""What the platform says of its disks once a second: which place has room, runs full, or fails."""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from domain import subjects
from domain.messages import StorageLevel, StorageState
from domain.ports import Clock
from runtime.bus import Bus

logger = logging.getLogger(__name__)

FRESH_US: Final = 10_000_000
_decoder: Final = msgspec.json.Decoder(list[StorageState])


class Storage:
    """The newest that was told. `listen` once; reads never block."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: list[StorageState] = []
        self._told_us = 0

    async def listen(self, bus: Bus) -> None:
        await bus.core_subscribe(subjects.STORAGE, self.receive)

    def receive(self, payload: bytes, subject: str) -> None:
        try:
            self._told, self._told_us = _decoder.decode(payload), self._clock.now_us()
        except msgspec.DecodeError:
            logger.warning("the state of the disks cannot be read", extra={"subject": subject})

    def places(self) -> list[StorageState]:
        """Every place as it was last told; none when nothing was told lately."""
        return self._told if self._clock.now_us() - self._told_us < FRESH_US else []

    def troubled(self) -> list[StorageState]:
        """Places that run full or fail."""
        return [state for state in self.places() if state.level is not StorageLevel.OK]
