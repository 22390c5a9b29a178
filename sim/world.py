"""The world: patients who come, worsen, recover and go, devices that speak and break, networks and power that fail.

On SimPy. `emissions` steps the environment and yields what senders hand to the platform, in schedule order. The
schedule is fixed by the seed: open loop, whatever the platform answers. Who comes and goes is planned ahead
(`sim.movements`) and acted out here at the beginning of a tick; without movements the patients are those of the plan.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import simpy
from numpy.typing import NDArray

from domain.errors import InvalidInput
from domain.fleet_manifest import FleetRegistered
from domain.quality import QualityArray
from domain.readings import ReadingBatch
from sim.devices import Cohorts
from sim.emission import Emission, Truth
from sim.faults import OF_DEVICES, OF_MESSAGES, FaultSpec
from sim.fleet import NOBODY, FleetPlan
from sim.movements import Adt, Movements
from sim.network import Network
from sim.people import People
from sim.physiology import Physiology
from sim.rng import Streams

_DETERIORATIONS_PER_PATIENT_DAY: Final = 0.08  # spontaneous ones, of about one in twelve patients a day [assumption]
_SEPSIS_WITHIN_S: Final = 3600.0  # at pace 1, from first signs to severe
_ILLNESS: Final = 0.3  # how much worse than at rest somebody may be who comes [assumption]
_TOLD_AS: Final = {Adt.ADMIT: "admitted", Adt.TRANSFER: "transferred", Adt.DISCHARGE: "discharged"}


@dataclass(frozen=True, slots=True)
class Said:
    """Columns of what is said in a tick."""

    channels: NDArray[np.intp]
    values: NDArray[np.float64]
    quality: QualityArray
    device: NDArray[np.int64]

    def part(self, rows: slice) -> Said:
        return Said(self.channels[rows], self.values[rows], self.quality[rows], self.device[rows])


class World:
    """One run of a plan. `bind` the handles before `emissions`."""

    def __init__(
        self, plan: FleetPlan, seed: int, start_us: int, faults: Sequence[FaultSpec] = (), tick_s: float = 1.0,
        birth_s: float = 10.0, movements: Movements | None = None,
    ) -> None:  # fmt: skip
        if tick_s <= 0:
            raise InvalidInput(f"a tick lasts {tick_s} s, expected more than 0")
        hospitals = len(plan.manifest.hospitals)
        for fault in faults:
            if not all(0 <= hospital < hospitals for hospital in fault.hospitals):
                raise InvalidInput(f"fault {fault.kind!r} meets hospitals {fault.hospitals}, expected 0 to {hospitals - 1}")
        self.plan = plan
        self._streams = Streams(seed)
        self._start_us = start_us
        self._tick_s = tick_s
        self._births = max(0, round(birth_s / tick_s))  # ticks over which every device reports once, as on switching on
        self._env = simpy.Environment()
        self._ready: list[Emission] = []
        self.truth: list[Truth] = []
        self.physiology = Physiology(plan.patient_age_years, plan.patient_is_icu, self._streams.stream("physiology"))
        late = None if movements is None else self._streams.stream("devices", "movement")
        self._cohorts = Cohorts(plan, self.physiology, tick_s, self._streams.stream("devices"), late)
        self._movements = deque(() if movements is None else movements.rows)
        self._people = self._populate(movements or Movements((), ()))
        self._network = Network(self._env, len(plan.gateways), self._ready.append, self._streams.stream("network"))
        self._offsets_s = self._streams.stream("gateway-offsets").uniform(0, tick_s, len(plan.gateways))
        self._handles: NDArray[np.uint32] | None = None
        self._gateway_handles = np.empty(0, dtype=np.uint32)
        self._sequences = np.zeros(len(plan.gateways), dtype=np.uint64)
        self._env.process(self._worsen())
        for number, fault in enumerate(faults):
            self._env.process(self._act(fault, self._streams.stream("fault", number)))

    @property
    def readings_per_s(self) -> float:
        """The mean rate of the plan's devices when nothing fails."""
        return self._cohorts.readings_per_s

    def bind(self, registered: FleetRegistered) -> None:
        """Take the handles that registering the plan's manifest gave."""
        self._handles, self._gateway_handles = self.plan.bind(registered)

    def emissions(self, duration_s: float) -> Iterator[Emission]:
        """What is handed over within `duration_s`, by due time. What a cut still holds at the end is never sent."""
        if self._handles is None:
            raise InvalidInput("the world has no handles yet: bind the registered fleet first")
        ticks = round(duration_s / self._tick_s)
        for tick in range(ticks):
            self.physiology.advance(self._tick_s)
            self._speak(tick, put_on=self._move(tick * self._tick_s))
            self._env.run(until=(tick + 1) * self._tick_s)
            ready = sorted(self._ready, key=lambda emission: emission.due_s)
            self._ready.clear()
            yield from ready

    def _populate(self, movements: Movements) -> People:
        """Give those who come in this run their signs from now on: rows that nothing shows before they are admitted."""
        ages = np.array([new.age_years for new in movements.newcomers])
        is_icu = np.array([new.is_icu for new in movements.newcomers], dtype=np.bool_)
        self.physiology.join(ages, is_icu, self._streams.stream("physiology", "newcomers"), _ILLNESS)
        return People(self.plan, movements)

    def _move(self, now_s: float) -> NDArray[np.intp]:
        """Act out the movements that are due: the bed's devices come off whoever goes and on whoever comes.

        Returns the devices that are newly on somebody.
        """
        put_on = [np.empty(0, dtype=np.intp)]
        while self._movements and self._movements[0].due_s <= now_s + 1e-9:
            row = self._movements.popleft()
            self._cohorts.conditions.put_on(self.plan.worn_at(row.from_bed), NOBODY)
            put_on.append(self.plan.worn_at(row.to_bed))
            self._cohorts.conditions.put_on(put_on[-1], row.patient)
            self._people.move(row)
            if row.kind is Adt.ADMIT:
                self.physiology.recover(np.array([row.patient]))
            self._note_patients(_TOLD_AS[row.kind], np.array([row.patient]))
        return np.concatenate(put_on)

    def _speak(self, tick: int, put_on: NDArray[np.intp]) -> None:
        """Draw the tick's readings and schedule each gateway's at its own moment within the tick."""
        assert self._handles is not None
        channels = self._cohorts.due(tick)
        if tick < self._births:
            channels = np.union1d(channels, self._cohorts.of_devices(tick, self._births))
        channels, values, quality = self._cohorts.say(channels, put_on)
        device = self._cohorts.device[channels]
        gateway = self.plan.gateway[device]
        order = np.lexsort((self._cohorts.metric[channels], device, gateway))
        channels, device, gateway = channels[order], device[order], gateway[order]
        said = Said(channels, values[order], quality[order], device)
        senders, starts = np.unique(gateway, return_index=True)
        bounds = np.r_[starts, len(gateway)]
        for number, sender in enumerate(senders.tolist()):
            rows = slice(int(bounds[number]), int(bounds[number + 1]))
            due_s = tick * self._tick_s + float(self._offsets_s[sender])
            self._env.process(self._hand_over(sender, due_s, said.part(rows)))

    def _hand_over(self, sender: int, due_s: float, said: Said) -> Generator[Any, Any, None]:
        yield self._env.timeout(max(0.0, due_s - self._env.now))
        if self._network.links[sender].is_dark:  # the power may have failed, or come back, since the tick began
            return
        assert self._handles is not None
        first = self._sequences[sender]
        count = len(said.channels)
        self._sequences[sender] += np.uint64(count)
        readings = ReadingBatch.of(
            handle=self._handles[said.device], instance=self._cohorts.instance[said.channels],
            metric=self._cohorts.metric[said.channels], value=said.values, quality=said.quality,
            time_us=self._start_us + round(due_s * 1e6) + self._network.links[sender].skew_us,
            source=self._gateway_handles[sender], sequence=first + np.arange(1, count + 1, dtype=np.uint64),
        )  # fmt: skip
        self._network.send(Emission(self._env.now, sender, readings))

    def _worsen(self) -> Generator[Any, Any, None]:
        """Now and then a patient worsens for an hour or so, and recovers."""
        rng = self._streams.stream("deterioration")
        patients = len(self.plan.patient_hospital)
        if not patients:
            return
        mean_s = 86_400 / (_DETERIORATIONS_PER_PATIENT_DAY * patients)
        while True:
            yield self._env.timeout(rng.exponential(mean_s))
            patient = int(rng.integers(patients))
            target, within_s, stays_s = rng.uniform(0.5, 1.0), rng.uniform(20, 600), rng.exponential(3600)
            met = self._people.in_place_of(np.array([patient]))
            self._env.process(self._episode(met, float(target), float(within_s), float(stays_s)))

    def _episode(self, patients: NDArray[np.intp], target: float, within_s: float, stays_s: float) -> Generator[Any, Any, None]:
        self.physiology.deteriorate(patients, target, within_s)
        self._note_patients("deteriorated", patients, f"severity {target:.2f} within {within_s:.0f} s")
        yield self._env.timeout(within_s + stays_s)
        self.physiology.recover(patients)
        self._note_patients("recovered", patients)

    def _act(self, fault: FaultSpec, rng: np.random.Generator) -> Generator[Any, Any, None]:
        yield self._env.timeout(fault.at_s)
        if fault.kind == "sepsis":
            met = _share(np.flatnonzero(self._in(fault, self.plan.patient_hospital)), fault.share, rng)
            patients = self._people.in_place_of(met)
            self.physiology.deteriorate(patients, 1.0, _SEPSIS_WITHIN_S / (fault.magnitude or 1.0))
            self._note_patients("deteriorated", patients, "sepsis")
            if fault.for_s:
                yield self._env.timeout(fault.for_s)
                self.physiology.recover(patients)
                self._note_patients("recovered", patients, "sepsis")
            return
        if fault.kind in OF_DEVICES:
            yield from self._break_devices(fault, rng)
            return
        gateways = self._gateways_of(fault, rng)
        self._note_gateways("fault-began", gateways, fault.kind)
        self._set(fault, gateways, begins=True)
        if fault.for_s:
            yield self._env.timeout(fault.for_s)
            self._set(fault, gateways, begins=False)
            self._note_gateways("fault-ended", gateways, fault.kind)

    def _break_devices(self, fault: FaultSpec, rng: np.random.Generator) -> Generator[Any, Any, None]:
        devices = _share(np.flatnonzero(self._in(fault, self.plan.hospital)), fault.share, rng)
        self._cohorts.conditions.begin(fault.kind, devices)
        self._note_devices("fault-began", devices, fault.kind)
        if fault.for_s:
            yield self._env.timeout(fault.for_s)
            self._cohorts.conditions.end(fault.kind, devices)
            self._note_devices("fault-ended", devices, fault.kind)

    def _set(self, fault: FaultSpec, gateways: NDArray[np.intp], *, begins: bool) -> None:
        for gateway in gateways.tolist():
            link = self._network.links[gateway]
            match fault.kind:
                case "wan-cut":
                    (self._network.cut if begins else self._network.heal)(gateway)
                case "power-failure":
                    link.is_dark = begins
                case "clock-skew":
                    link.skew_us = round(fault.magnitude * 1e6) if begins else 0
                case "network-loss":
                    link.loss = min(fault.share, 0.9) if begins else 0.0
                case "network-duplicate":
                    link.duplicate = fault.share if begins else 0.0
                case "network-delay":
                    link.delay_s = fault.magnitude if begins else 0.0

    def _gateways_of(self, fault: FaultSpec, rng: np.random.Generator) -> NDArray[np.intp]:
        hospitals = np.array([gateway.hospital for gateway in self.plan.gateways])
        met = np.flatnonzero(self._in(fault, hospitals))
        return met if fault.kind in OF_MESSAGES else _share(met, fault.share, rng)

    @staticmethod
    def _in(fault: FaultSpec, hospitals: NDArray[Any]) -> NDArray[np.bool_]:
        return np.isin(hospitals, fault.hospitals) if fault.hospitals else np.ones(len(hospitals), dtype=np.bool_)

    def _note_patients(self, kind: str, patients: NDArray[np.intp], detail: str = "") -> None:
        self.truth += [Truth(kind, self._env.now, self._people.name(patient), detail) for patient in patients.tolist()]

    def _note_devices(self, kind: str, devices: NDArray[np.intp], detail: str) -> None:
        counts = np.bincount(self.plan.hospital[devices], minlength=len(self.plan.manifest.hospitals))
        for number in np.flatnonzero(counts).tolist():
            hospital_id = self.plan.manifest.hospitals[number].hospital_id
            self.truth.append(Truth(kind, self._env.now, hospital_id, f"{detail}, {counts[number]} devices"))

    def _note_gateways(self, kind: str, gateways: NDArray[np.intp], detail: str) -> None:
        for number in gateways.tolist():
            gateway = self.plan.gateways[number]
            hospital_id = self.plan.manifest.hospitals[gateway.hospital].hospital_id
            self.truth.append(Truth(kind, self._env.now, f"{hospital_id}/{gateway.device_id}", detail))


def _share(rows: NDArray[np.intp], share: float, rng: np.random.Generator) -> NDArray[np.intp]:
    count = round(len(rows) * share)
    return np.sort(rng.permutation(rows)[:count])
