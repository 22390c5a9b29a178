"""In what state each device is: on whom, and what is wrong with it. What a tick would say is changed accordingly.

A device at a bed where nobody lies goes on speaking, but says of every metric of a patient that it is *not available*.
Silence would do as well for truth, and worse for the platform: many a device fallen silent at about the same time is
a mass outage of the hospital, while one that says that nothing is measured is live and tells what it knows. Without
movement (`waits` false) such devices speak as if they were on somebody nobody models.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from domain.metrics import BY_ID, metric_of
from domain.quality import QualityArray, Validity
from domain.thing_catalogue import thing_model
from sim.faults import OF_DEVICES
from sim.fleet import IS_BOUND, NOBODY, NOWHERE, FleetPlan
from sim.mix import MODELS

# what a patient-bound device says of itself, wherever it is
_OF_ITSELF: Final = ("battery", "infusion_status", "running_state", "latitude", "longitude")
_NOT_AVAILABLE: Final = np.uint16(Validity.NOT_AVAILABLE)
_OWN_METRICS: Final = np.array([metric_of(name).id for name in _OF_ITSELF])


class Conditions:
    """Of the devices of a plan; `device` and `metric` are those of each channel. `wearer`: the patient of each device."""

    def __init__(
        self, plan: FleetPlan, device: NDArray[np.int64], metric: NDArray[np.uint16], *, waits: bool = False
    ) -> None:  # fmt: skip
        self.wearer = plan.patient.copy()
        self._device = device
        self._of_a_patient = IS_BOUND[plan.model][device] & ~np.isin(metric, _OWN_METRICS)
        self._waits = self._of_a_patient & (plan.bed[device] != NOWHERE) & waits
        self._sentinel = _sentinels()[plan.model[device], metric]
        self._frozen = np.full(len(device), np.nan)
        self._faults = {kind: np.zeros(len(plan.model), dtype=np.int16) for kind in OF_DEVICES}

    def put_on(self, devices: NDArray[np.intp], patient: int) -> None:
        self.wearer[devices] = patient

    def begin(self, kind: str, devices: NDArray[np.intp]) -> None:
        """A fault of one of the kinds OF_DEVICES begins on `devices`; several of a kind may overlap."""
        self._faults[kind][devices] += 1

    def end(self, kind: str, devices: NDArray[np.intp]) -> None:
        self._faults[kind][devices] -= 1
        if kind == "sensor-stuck":
            self._frozen[self._faults[kind][self._device] == 0] = np.nan

    def applied(
        self, channels: NDArray[np.intp], values: NDArray[np.float64]
    ) -> tuple[NDArray[np.intp], NDArray[np.float64], QualityArray]:
        """(channels, values, qualities) of what is really said, of channels that were drawn as if all were well."""
        device = self._device[channels]
        quality = np.zeros(len(channels), dtype=np.uint16)
        self._hold(channels, device, values)
        is_off = self._of_a_patient[channels] & (self._faults["sensor-off"][device] > 0)
        values[is_off] = self._sentinel[channels[is_off]]
        waits = self._waits[channels] & (self.wearer[device] == NOBODY)
        values[waits] = np.nan
        quality[np.isnan(values)] = _NOT_AVAILABLE
        works = self._faults["equipment-breakdown"][device] == 0
        return channels[works], values[works], quality[works]

    def _hold(self, channels: NDArray[np.intp], device: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """A stuck sensor goes on saying the first thing that it says after it got stuck."""
        stuck = np.flatnonzero(self._faults["sensor-stuck"][device] > 0)
        held = self._frozen[channels[stuck]]
        values[stuck] = np.where(np.isnan(held), values[stuck], held)
        self._frozen[channels[stuck]] = values[stuck]


def _sentinels() -> NDArray[np.float64]:
    """[model, metric]: the number by which a device says *nothing measured*; NaN where its model declares none."""
    table = np.full((len(MODELS), max(BY_ID) + 1), np.nan)
    for number, name in enumerate(MODELS):
        model = thing_model(name)
        for metric_id in model.by_metric:
            table[number, metric_id] = next(iter(model.sentinels_of(metric_id)), np.nan)
    return table
