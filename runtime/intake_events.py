"""Device events on their way in: one control message each, in the order of their sender, answered once it is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

import numpy as np

from domain import subjects
from domain.messages import DeviceEvent, SecurityNotice, encode
from domain.ports import Identities, Receipt, Sender
from runtime.intake_group import foreign_device, unknown_device


class IntakeEvents:
    """The part of the Intake that takes events. `publish` is the Intake's: it retries, and raises Unavailable."""

    def __init__(self, identities: Identities, publish: Callable[[str, bytes, str], Awaitable[int]]) -> None:
        self._identities = identities
        self._publish = publish
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()  # sender -> whose turn it is

    async def submit(self, sender: Sender, event: DeviceEvent, message_id: str) -> Receipt:
        """Store what `sender` says of a device; its next event waits until this one is kept. Raises RejectedInput."""
        turn = self._turns.setdefault(sender.handle, asyncio.Lock())
        async with turn:
            return await self.store(await self.shard_of(sender, event), event, message_id)

    async def store(self, shard: int, event: DeviceEvent | SecurityNotice, message_id: str) -> Receipt:
        sequence = await self._publish(subjects.control(shard), encode(event), message_id)
        return Receipt(shard, sequence, 0)

    async def shard_of(self, sender: Sender, event: DeviceEvent) -> int:
        """The shard of the event's device. Raises RejectedInput when it is not the sender's to speak for."""
        if event.handle == sender.handle:
            return self._identities.place_of(sender.hospital_id, sender.shard)
        if sender.model is not None:
            raise foreign_device(event.handle)
        shard = int((await self._identities.shards_of(sender, np.array([event.handle], np.uint32)))[0])
        if shard < 0:
            raise unknown_device(event.handle, sender)
        return shard
