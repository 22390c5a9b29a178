"""Devices as cohorts: every channel of every device in flat arrays, and each tick the readings that are due.

Channels are sorted by how often they speak; a tick takes the slots whose turn it is and draws all values metric by
metric. No Python loop per device or reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from domain.metrics import BY_ID, metric_of
from domain.quality import QualityArray
from domain.thing_catalogue import thing_model
from domain.thing_models import Modality
from sim.conditions import Conditions
from sim.fleet import NOWHERE, FleetPlan
from sim.mix import MODELS
from sim.physiology import SIGNS, Physiology

Draw = Callable[[NDArray[np.float64], np.random.Generator, float], NDArray[np.float64]]
_SIGN: Final = {name: column for column, name in enumerate(SIGNS)}
_ICU_ONLY: Final = frozenset({"abp_sys", "abp_dia", "abp_mean", "cvp_mean", "etco2"})
_FIRST_ONLY: Final = frozenset({"monitor", "infusion-pump"})  # one probe, one running channel [assumption]
_ON_EVENT_S: Final = 60.0  # what is sent on change is said once a minute all the same
_FORWARDED_S: Final = 2.0  # gateways forward every second reading of what a monitor shows each second [assumption]
_OF_A_PATIENT: Final = frozenset({"infusion-pump"})  # says more than its battery and state only when it is on somebody
_ALWAYS: Final = frozenset({"battery", "infusion_status"})

# metric -> (sign, share of it): what a patient's state shows on a channel
_FROM_PATIENT: Final[dict[str, tuple[tuple[str, float], ...]]] = {
    "heart_rate": (("heart_rate", 1.0),), "pulse_rate": (("heart_rate", 1.0),), "resp_rate": (("resp_rate", 1.0),),
    "vent_rate": (("resp_rate", 1.0),), "spo2": (("spo2", 1.0),), "body_temp": (("body_temp", 1.0),),
    "nibp_sys": (("sys", 1.0),), "nibp_dia": (("dia", 1.0),), "nibp_mean": (("sys", 1 / 3), ("dia", 2 / 3)),
    "abp_sys": (("sys", 1.0),), "abp_dia": (("dia", 1.0),), "abp_mean": (("sys", 1 / 3), ("dia", 2 / 3)),
    "etco2": (("etco2", 1.0),), "cvp_mean": (("cvp", 1.0),),
}  # fmt: skip

# metric -> (typical, scatter) of what belongs to no patient, or to a patient nobody models
_TYPICAL: Final[dict[str, tuple[float, float]]] = {
    "perfusion_index": (4.0, 0.8), "st_deviation": (0.0, 0.05), "tidal_volume": (470, 25), "minute_volume": (7.5, 0.5),
    "peep": (6.0, 0.2), "peak_pressure": (22, 1.5), "fio2": (40, 2), "infusion_rate": (25, 0.2), "volume_infused": (120, 3),
    "volume_to_be_infused": (380, 3), "infusion_time_remaining": (14000, 50), "battery": (78, 1), "skin_temp": (33.5, 0.4),
    "step_count": (2400, 30), "activity_level": (20, 6), "latitude": (22.54, 0.01), "longitude": (114.06, 0.01),
    "oxygen_supply_pressure": (420, 4), "air_supply_pressure": (420, 4), "vacuum_pressure": (-60, 1.5),
    "fridge_temp": (4.5, 0.3), "active_power": (140, 12), "tube_temp": (45, 3), "exposure_count": (88000, 10),
    "energy_total": (52000, 1), "operating_hours": (3.1e7, 1), "room_temp": (23.5, 0.5), "room_humidity": (50, 3),
    "co2_concentration": (620, 50), "pm25": (18, 4), "noise": (48, 4), "illuminance": (320, 40),
    "differential_pressure": (12, 1), "heart_rate": (78, 6), "pulse_rate": (78, 6), "resp_rate": (16, 1),
    "spo2": (97, 0.8), "body_temp": (36.7, 0.2), "nibp_sys": (122, 8), "nibp_dia": (75, 6), "nibp_mean": (91, 6),
    "gcs_total": (15, 0), "urine_output": (60, 15), "glucose": (6.0, 0.6), "body_weight": (66, 0.3),
}  # fmt: skip
_CODED_TYPICAL: Final[dict[str, float]] = {
    "infusion_status": 1,
    "running_state": 2,
    "posture": 1,
    "acvpu": 0,
    "oxygen_therapy": 0,
}
_DERIVED: Final = frozenset({"news2", "anomaly_score"})


class Cohorts:
    """All channels of a plan that are in use; with `late_rng` also those that a movement may bring into use."""

    def __init__(
        self, plan: FleetPlan, physiology: Physiology, tick_s: float, rng: np.random.Generator,
        late_rng: np.random.Generator | None = None,
    ) -> None:  # fmt: skip
        self._physiology = physiology
        self._rng = rng
        planned, late = _channels_of(plan, _speaks), _channels_of(plan, _may_speak if late_rng is not None else _never)
        self._late_rng = rng if late_rng is None else late_rng
        self._planned = len(planned[0])
        device, metric = np.append(planned[0], late[0]), np.append(planned[1], late[1])
        self.device, self.metric, self.instance = device, metric, np.append(planned[2], late[2])
        self.conditions = Conditions(plan, device, metric, waits=late_rng is not None)
        # each device's own deviation from what is typical
        self._level = np.append(rng.normal(0, 1, self._planned), self._late_rng.normal(0, 1, len(late[0])))
        ticks = np.maximum(1, np.round(np.append(planned[3], late[3]) / tick_s)).astype(np.int64)
        phase = rng.integers(0, 2**31, len(plan.model))[device] % ticks  # a device's channels speak together
        is_late = np.arange(len(device)) >= self._planned
        self._slots = [*_slots(ticks, phase, ~is_late), *_slots(ticks, phase, is_late)]
        self.readings_per_s = float((1 / (ticks * tick_s)).sum())

    def due(self, tick: int) -> NDArray[np.intp]:
        """The channels whose turn it is; those of the plan come first."""
        parts = [slots[tick % period] for period, slots in self._slots]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.intp)

    def of_devices(self, part: int, parts: int) -> NDArray[np.intp]:
        """All channels of every `parts`-th device, beginning with the `part`-th."""
        return np.flatnonzero(self.device % parts == part)

    def say(
        self, due: NDArray[np.intp], put_on: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], NDArray[np.float64], QualityArray]:
        """(channels, values, qualities) of those due whose device works, in the state in which it is.

        Devices that were just put on somebody (`put_on`) measure everything at once, as a nurse has them do.
        """
        fresh = np.setdiff1d(np.flatnonzero(np.isin(self.device, put_on)), due) if len(put_on) else put_on
        values = np.append(self.draw(due), self.draw(fresh, in_turn=False))
        return self.conditions.applied(np.append(due, fresh), values)

    def draw(self, channels: NDArray[np.intp], *, in_turn: bool = True) -> NDArray[np.float64]:
        """A value for each channel, rounded as its metric is charted."""
        values = np.empty(len(channels))
        metrics = self.metric[channels]
        order = np.argsort(metrics, kind="stable")
        kinds, starts = np.unique(metrics[order], return_index=True)
        for kind, first, end in zip(kinds, starts, [*starts[1:], len(order)], strict=False):
            rows = order[first:end]
            values[rows] = self._draw_metric(int(kind), channels[rows], in_turn=in_turn)
        return values

    def _draw_metric(self, metric_id: int, channels: NDArray[np.intp], *, in_turn: bool) -> NDArray[np.float64]:
        metric = BY_ID[metric_id]
        if metric.codes:
            return np.full(len(channels), _CODED_TYPICAL.get(metric.code, 0.0))
        typical, scatter = _TYPICAL.get(metric.code, (sum(metric.plausible) / 2, 0.0))
        values = typical + scatter * (self._level[channels] + 0.3 * self._noise(channels, in_turn=in_turn))
        parts = _FROM_PATIENT.get(metric.code)
        if parts is not None:
            patient = self.conditions.wearer[self.device[channels]]
            known = patient >= 0
            signs = self._physiology.signs
            values[known] = sum(share * signs[patient[known], _SIGN[sign]] for sign, share in parts)
        steps = 1 / metric.precision
        rounded: NDArray[np.float64] = np.round(np.clip(values, *metric.plausible) * steps) / steps
        return rounded

    def _noise(self, channels: NDArray[np.intp], *, in_turn: bool) -> NDArray[np.float64]:
        """Channels beyond the plan's, or out of their turn, have a chance of their own: they do not shift the others'."""
        noise, planned = np.empty(len(channels)), (channels < self._planned) & in_turn
        noise[planned] = self._rng.normal(0, 1, int(planned.sum()))
        noise[~planned] = self._late_rng.normal(0, 1, int((~planned).sum()))
        return noise


def _channels_of(
    plan: FleetPlan, speaks: Callable[[FleetPlan, str, str], NDArray[np.bool_]]
) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.uint8], NDArray[np.float64]]:
    """(device, metric, instance, period_s) of every channel in use."""
    parts = []
    for number, name in enumerate(MODELS):
        devices = np.flatnonzero(plan.model == number)
        for channel in thing_model(name).channels if len(devices) else ():
            if channel.metric in _DERIVED:
                continue
            own = devices[speaks(plan, name, channel.metric)[devices]]
            instances = 1 if name in _FIRST_ONLY else channel.instances
            period_s = max(channel.period_s, _ON_EVENT_S if channel.modality is Modality.ON_EVENT else _FORWARDED_S)
            parts += [(own, metric_of(channel.metric).id, instance, period_s) for instance in range(instances)]
    return (
        np.concatenate([own for own, *_ in parts]).astype(np.int64),
        np.concatenate([np.full(len(own), metric, np.uint16) for own, metric, _, _ in parts]),
        np.concatenate([np.full(len(own), instance, np.uint8) for own, _, instance, _ in parts]),
        np.concatenate([np.full(len(own), period_s) for own, _, _, period_s in parts]),
    )


def _speaks(plan: FleetPlan, model: str, metric: str) -> NDArray[np.bool_]:
    """Which devices use a metric of their model: invasive signs belong to intensive care, a pool pump only waits."""
    if model == "monitor" and metric in _ICU_ONLY:
        return plan.is_icu
    if model in _OF_A_PATIENT and metric not in _ALWAYS:
        return np.asarray(plan.patient >= 0)
    return np.ones(len(plan.model), dtype=np.bool_)


def _may_speak(plan: FleetPlan, model: str, metric: str) -> NDArray[np.bool_]:
    """What a device of an empty bed does not use before somebody comes to lie there."""
    return np.asarray(~_speaks(plan, model, metric) & (plan.bed != NOWHERE) & (model in _OF_A_PATIENT))


def _never(plan: FleetPlan, _model: str, _metric: str) -> NDArray[np.bool_]:
    return np.zeros(len(plan.model), dtype=np.bool_)


def _slots(
    ticks: NDArray[np.int64], phase: NDArray[np.int64], chosen: NDArray[np.bool_]
) -> Iterator[tuple[int, list[NDArray[np.intp]]]]:
    """(period in ticks, for each tick of the period those of the chosen channels that speak then)."""
    for period in np.unique(ticks[chosen]).tolist():
        channels = np.flatnonzero(chosen & (ticks == period))
        channels = channels[np.argsort(phase[channels], kind="stable")]
        edges = np.searchsorted(phase[channels], np.arange(period + 1))
        yield period, [channels[edges[n] : edges[n + 1]] for n in range(period)]
