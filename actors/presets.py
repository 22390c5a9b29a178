"""Which limits are in force for a reading: the patient's preset, else the normal range of the age band, else the adult's."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.roster import Roster
from domain.ages import AgeBand
from domain.limits import LIMITS, LimitRule
from domain.messages import LimitsPreset
from domain.metrics import MAX_ID, metric_of

_NORMAL: Final[NDArray[np.float64]] = LIMITS.reshape(-1, len(LimitRule))  # row: metric * bands + band
_IS_LOW: Final = np.array([rule.is_low for rule in LimitRule])
_OPEN_ENDS: Final = np.array([-np.inf if rule.is_low else np.inf for rule in LimitRule])


class Presets:
    """[slot, metric, rule] limits of the few patients who have any; NaN where the normal range holds."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._keep(np.empty((0, MAX_ID + 1, len(LimitRule))))

    def preset(self, message: LimitsPreset) -> None:
        """Set or remove one patient's limits of one metric; a patient who is not here has none to set."""
        patient = self._roster.patient_row(message.patient_handle)
        if patient < 0:
            return
        slot = int(self._roster.patients["preset_slot"][patient])
        if slot < 0:
            slot = self._roster.patients["preset_slot"][patient] = len(self._limits)
            self._keep(np.concatenate([self._limits, np.full((1, *self._limits.shape[1:]), np.nan)]))
        limits = np.full(len(LimitRule), np.nan)
        if message.limits is not None:
            given = np.array([np.nan if limit is None else limit for limit in message.limits])
            limits = np.where(np.isnan(given), _OPEN_ENDS, given)
        metric = metric_of(message.metric).id
        self._limits[slot, metric] = limits
        self._own_least[slot, metric], self._own_greatest[slot, metric] = _bounds(limits)

    def limits_of(self, metrics: NDArray[np.uint16], patients: NDArray[Any]) -> NDArray[np.float64]:
        """[n, 4] limits of each metric for each patient row; NOBODY and AMBIGUOUS have the adult range."""
        limits = _NORMAL.take(self._normal_of(metrics, patients), axis=0)
        chosen, presets = self._presets_of(metrics, patients)
        limits[chosen] = np.where(np.isnan(presets), limits[chosen], presets)
        return limits

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The greatest of the low limits and the least of the high ones: no limit is crossed between them. First the normal
        ones, by metric * bands + band; then patients' own by [slot, metric], NaN where the normal ones hold.
        """
        return _LEAST, _GREATEST, self._own_least, self._own_greatest

    def _normal_of(self, metrics: NDArray[np.uint16], patients: NDArray[Any]) -> NDArray[np.intp]:
        """The row of _NORMAL of each."""
        rows: NDArray[np.intp] = metrics.astype(np.intp) * len(AgeBand) + AgeBand.ADULT
        if len(self._roster.patients):
            known = np.flatnonzero(patients >= 0)
            rows[known] += self._roster.patients["band"][patients[known]].astype(np.intp) - AgeBand.ADULT
        return rows

    def _presets_of(self, metrics: NDArray[np.uint16], patients: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Those whose patient has limits of its own, and these: [m, 4], NaN where the normal range holds."""
        if not len(self._limits):
            return np.empty(0, np.intp), np.empty((0, len(LimitRule)))
        slots = np.where(patients >= 0, self._roster.patients["preset_slot"][patients], -1)
        chosen = np.flatnonzero(slots >= 0)
        return chosen, self._limits[slots[chosen], metrics[chosen]]

    def is_preset(self, metric: int, patient: int) -> bool:
        """Whether the patient's own limits hold for the metric, in place of the normal range."""
        slot = int(self._roster.patients["preset_slot"][patient]) if patient >= 0 else -1
        return slot >= 0 and not np.isnan(self._limits[slot, metric, 0])

    def snapshot(self) -> dict[str, pa.Table]:
        slots, metrics = np.nonzero(~np.isnan(self._limits[:, :, 0]))
        columns = {rule.name.lower(): self._limits[slots, metrics, rule] for rule in LimitRule}
        return {
            "presets": pa.table({"slot": slots, "metric": metrics, **columns}),
            "preset_slots": pa.table({"count": [len(self._limits)]}),
        }

    def restore(self, tables: dict[str, pa.Table]) -> None:
        count = tables["preset_slots"]["count"][0].as_py()
        limits = np.full((count, MAX_ID + 1, len(LimitRule)), np.nan)
        table = tables["presets"]
        slots, metrics = table["slot"].to_numpy(), table["metric"].to_numpy()
        for rule in LimitRule:
            limits[slots, metrics, rule] = table[rule.name.lower()].to_numpy()
        self._keep(limits)

    def _keep(self, limits: NDArray[np.float64]) -> None:
        self._limits = limits
        self._own_least, self._own_greatest = _bounds(limits)


def _bounds(limits: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The greatest low and the least high limit, along the last axis."""
    return limits[..., _IS_LOW].max(axis=-1), limits[..., ~_IS_LOW].min(axis=-1)


_LEAST, _GREATEST = _bounds(_NORMAL)
