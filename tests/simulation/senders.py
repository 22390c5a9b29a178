"""Who sends in a simulation: monitors, a gateway, keyed requests, events, refused messages; and what they know at the end.

Every sender repeats what was not acknowledged, at any door that is there, for as long as its patience lasts. What an
Intake acknowledged counts as acknowledged, whether or not its sender ever heard of it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from domain.errors import Unavailable
from domain.messages import (
    AssociationSpan,
    Control,
    DeviceAssociated,
    DeviceEvent,
    DevicesRegistered,
    LimitsPreset,
    MaintenanceSet,
    PatientAdmitted,
)
from domain.metrics import metric_of
from domain.ports import Receipt, Sender
from domain.quality import Mark, Validity, pack
from domain.readings import DTYPES, NO_SEQUENCE, ReadingBatch, pack_row
from domain.thing_catalogue import thing_model
from runtime.intake import StreamIntake
from tests.simulation.platform import SHARD_HANDLES, Platform
from tests.simulation.virtual_time import EPOCH_US

S = 1_000_000
# values that cross limits often
VALUES = {
    "heart_rate": (30, 45, 80, 85, 125, 150), "resp_rate": (7, 9, 16, 27), "spo2": (84, 88, 91, 97),
    "body_temp": (34.9, 37, 38.4), "nibp_sys": (70, 85, 120, 170), "acvpu": (0, 1), "oxygen_therapy": (0, 1),
    "fridge_temp": (4,),
}  # fmt: skip
OF_CHART = ("acvpu", "oxygen_therapy")
MONITOR, SECOND, STRANGER, GATEWAY, ADULT, CHILD = 1, 2, 3, 5, 11, 12  # handles, from the shard's first one on
_QUALITIES = (*[0] * 8, pack(Validity.QUESTIONABLE), pack(Validity.NOT_AVAILABLE), pack(marks=int(Mark.BACKFILL)))
_TRIES = 60


@dataclass
class Said:
    """What was sent, and what was acknowledged."""

    sent: list[ReadingBatch] = field(default_factory=list)
    kept: list[tuple[ReadingBatch, Receipt]] = field(default_factory=list)
    keyed: dict[str, list[tuple[ReadingBatch, Receipt]]] = field(default_factory=dict)
    events: list[tuple[DeviceEvent, Receipt]] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)


class Senders:
    """All senders of one run."""

    def __init__(self, platform: Platform, chance: random.Random, messages: int) -> None:
        self._platform = platform
        self._chance = chance
        self._messages = messages
        self._readings = 0
        self.said = Said()

    def all(self) -> list[Awaitable[None]]:
        """What they do; done when each has done it."""
        return [work for shard in self._platform.shards for work in self._of_shard(shard)]

    def _of_shard(self, shard: int) -> list[Awaitable[None]]:
        base, hospital = SHARD_HANDLES * (shard + 1), f"sz.h00{shard}"
        model = thing_model("monitor")
        first, second = (Sender(f"{hospital}/m", base + n, hospital, shard, model) for n in (MONITOR, SECOND))
        gateway = Sender(f"{hospital}/gw", base + GATEWAY, hospital, shard)
        work = [
            self._registry(shard, hospital, base), self._many(self._own, first), self._many(self._packed, second),
            self._many(self._for_others, gateway), self._many(self._keyed, second),
        ]  # fmt: skip
        if self._chance.random() < 0.5:
            work += [self._many(self._event, first), self._many(self._malformed, gateway)]
        return work

    async def _many(self, send: Callable[[Sender, int], Awaitable[None]], who: Sender) -> None:
        """Messages one after the other, some of them side by side."""
        running = []
        for number in range(1, self._messages + 1):
            await asyncio.sleep(self._chance.uniform(0, 2.0))
            running.append(asyncio.ensure_future(send(who, number)))
            if self._chance.random() < 0.7:
                await running[-1]
        await asyncio.gather(*running)

    # -- one message each

    async def _own(self, who: Sender, number: int) -> None:
        batch = self._some(who, [who.handle] * self._chance.randint(1, 4), number * 100)
        await self._send(batch, lambda intake: intake.submit(who, batch))
        if self._chance.random() < 0.2:  # a sender that did not hear of its acknowledgement
            await self._send(batch, lambda intake: intake.submit(who, batch))

    async def _packed(self, who: Sender, number: int) -> None:
        batch = self._some(who, [who.handle] * self._chance.randint(1, 2), NO_SEQUENCE)
        rows = b"".join(pack_row(*(getattr(batch, name)[n].item() for name in DTYPES)) for n in range(len(batch)))
        await self._send(batch, lambda intake: intake.submit_packed(who, rows))

    async def _for_others(self, who: Sender, number: int) -> None:
        own = who.handle // SHARD_HANDLES * SHARD_HANDLES
        bases = [own] if self._platform.hands_over else [SHARD_HANDLES * (shard + 1) for shard in self._platform.shards]
        known = [MONITOR, SECOND, SECOND, ADULT, ADULT, ADULT, CHILD, STRANGER]
        handles = [self._chance.choice(bases) + self._chance.choice(known) for _ in range(self._chance.randint(1, 6))]
        batch = self._some(who, handles, number * 100)
        await self._send(batch, lambda intake: intake.submit(who, batch))

    async def _keyed(self, who: Sender, number: int) -> None:
        batch, key = self._some(who, [who.handle], NO_SEQUENCE), f"key-{who.handle}-{number}"

        async def once(intake: StreamIntake) -> None:
            receipt = await intake.submit_once(who, batch, await intake.claim(who, batch, key, key.encode()))
            self.said.keyed.setdefault(key, []).append((batch, receipt))

        self.said.sent.append(batch)
        for _ in range(self._chance.choice([1, 1, 2])):
            await self._deliver(once)

    async def _event(self, who: Sender, number: int) -> None:
        event = DeviceEvent(who.hospital_id, who.handle, "lead_off" if number % 2 else "lead_on", self._now_us())

        async def tell(intake: StreamIntake) -> None:
            self.said.events.append((event, await intake.submit_event(who, event)))

        await self._deliver(tell)

    async def _malformed(self, who: Sender, number: int) -> None:
        payload = f"not a reading {who.handle} {number}".encode()

        async def refuse(intake: StreamIntake) -> None:
            await intake.reject(door="mqtt", sender=who, topic="t", payload=payload, reason="malformed", detail="no")
            self.said.refused.append(payload)

        await self._deliver(refuse)

    # -- how

    async def _send(self, batch: ReadingBatch, submit: Callable[[StreamIntake], Awaitable[Receipt]]) -> None:
        async def send(intake: StreamIntake) -> None:
            self.said.kept.append((batch, await submit(intake)))

        self.said.sent.append(batch)
        await self._deliver(send)

    async def _deliver(self, say: Callable[[StreamIntake], Awaitable[None]]) -> None:
        for _ in range(_TRIES):
            try:
                if self._platform.doors:
                    await self._chance.choice(self._platform.doors).ask(say)
                    return
            except Unavailable:
                pass
            await asyncio.sleep(self._chance.uniform(0.05, 1.0))

    def _some(self, who: Sender, handles: list[int], first_sequence: int) -> ReadingBatch:
        """Readings of the last seconds, no two of one time; sequences from `first_sequence` on, if it is one."""
        columns: dict[str, list[Any]] = {"metric": [], "time_us": [], "value": [], "quality": []}
        for handle in handles:
            is_chart = handle % SHARD_HANDLES in (ADULT, CHILD)
            metric = self._chance.choice(OF_CHART if is_chart else (*list(VALUES)[:5], "heart_rate", "heart_rate"))
            metric = "fridge_temp" if self._chance.random() < 0.03 else metric
            quality, self._readings = self._chance.choice(_QUALITIES), self._readings + 1
            is_missing = quality & 0xF == Validity.NOT_AVAILABLE
            columns["metric"].append(metric_of(metric).id)
            columns["time_us"].append(self._now_us() - self._chance.choice([0, 0, 1, 4, 12]) * S - self._readings)
            columns["value"].append(float("nan") if is_missing else float(self._chance.choice(VALUES[metric])))
            columns["quality"].append(quality)
        sequence = list(range(first_sequence, first_sequence + len(handles))) if first_sequence else NO_SEQUENCE
        return ReadingBatch.of(handle=handles, source=who.handle, sequence=sequence, **columns)

    def _now_us(self) -> int:
        return EPOCH_US + round(asyncio.get_running_loop().time() * 1e6)

    # -- who is who

    async def _registry(self, shard: int, hospital: str, base: int) -> None:
        """The business database, saying in order who is in the shard."""
        for wait_s, message in self._controls(hospital, base):
            await asyncio.sleep(wait_s)
            async with self._platform.outbox:
                await self._platform.tell(self._platform.places[shard], shard, message)

    def _controls(self, hospital: str, base: int) -> list[tuple[float, Control]]:
        models = {base + MONITOR: "monitor@1", base + SECOND: "monitor@1", base + GATEWAY: "gateway@1"}
        devices = DevicesRegistered(
            hospital, list(models), [f"d{h}" for h in models], list(models.values()), ["icu"] * 3, [None] * 3
        )
        later = self._chance.uniform(1, 6)
        move_us, adult, child = EPOCH_US + round(later * S), base + ADULT, base + CHILD
        soon = [
            devices, PatientAdmitted(hospital, f"p{adult}", adult, age_years=60),
            PatientAdmitted(hospital, f"p{child}", child, age_years=10),
            DeviceAssociated(hospital, base + MONITOR, [AssociationSpan(adult, 0)]),
            DeviceAssociated(hospital, base + SECOND, [AssociationSpan(child, 0)], 500_000),
        ]  # fmt: skip
        then = [
            LimitsPreset(hospital, adult, "heart_rate", (None, 60, 100, None)),
            DeviceAssociated(
                hospital, base + SECOND, [AssociationSpan(child, 0, move_us), AssociationSpan(adult, move_us)], 500_000
            ),
            MaintenanceSet(hospital, move_us, move_us + 2 * S, handle=base + MONITOR),
        ]  # fmt: skip
        return [(0.0, message) for message in soon] + [(later, message) for message in self._chance.sample(then, 3)[:2]]
