"""What another process tells again and again over the bus: the newest of it, as long as it is fresh."""

from __future__ import annotations

import logging
from typing import Final, Generic, TypeVar

import msgspec

from domain.ports import Clock
from runtime.bus import Bus

logger = logging.getLogger(__name__)

FRESH_US: Final = 10_000_000
Message = TypeVar("Message")


class Told(Generic[Message]):
    """The newest message of `subject`, decoded as `kind`. `listen` once; reads never block."""

    def __init__(self, clock: Clock, subject: str, kind: type[Message]) -> None:
        self._clock = clock
        self._subject = subject
        self._decoder = msgspec.json.Decoder(kind)
        self._told: Message | None = None
        self._told_us = 0

    async def listen(self, bus: Bus) -> None:
        await bus.core_subscribe(self._subject, self.receive)

    def receive(self, payload: bytes, subject: str) -> None:
        """Take a message; one that cannot be read is passed over, and logged."""
        try:
            self._told, self._told_us = self._decoder.decode(payload), self._clock.now_us()
        except msgspec.DecodeError:
            logger.warning("what is told cannot be read", extra={"subject": subject})

    def newest(self) -> Message | None:
        """None when nothing was told lately."""
        return self._told if self._clock.now_us() - self._told_us < FRESH_US else None
