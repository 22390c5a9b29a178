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
_OPEN_ENDS: Final = np.array([-np.inf if rule.is_low else np.inf for rule in LimitRule])


class Presets:
    """[slot, metric, rule] limits of the few patients who have any; NaN where the normal range holds."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._limits = np.empty((0, MAX_ID + 1, len(LimitRule)))

    def preset(self, message: LimitsPreset) -> None:
        """Set or remove one patient's limits of one metric; a patient who is not here has none to set."""
        patient = self._roster.patient_row(message.patient_handle)
        if patient < 0:
            return
        slot = int(self._roster.patients["preset_slot"][patient])
        if slot < 0:
            slot = self._roster.patients["preset_slot"][patient] = len(self._limits)
            self._limits = np.concatenate([self._limits, np.full((1, *self._limits.shape[1:]), np.nan)])
        limits = np.full(len(LimitRule), np.nan)
        if message.limits is not None:
            given = np.array([np.nan if limit is None else limit for limit in message.limits])
            limits = np.where(np.isnan(given), _OPEN_ENDS, given)
        self._limits[slot, metric_of(message.metric).id] = limits

    def limits_of(self, metrics: NDArray[np.uint16], patients: NDArray[Any]) -> NDArray[np.float64]:
        """[n, 4] limits of each metric for each patient row; NOBODY and AMBIGUOUS have the adult range."""
        by_band: NDArray[np.intp] = metrics.astype(np.intp) * len(AgeBand)
        if not len(self._roster.patients):
            return _NORMAL.take(by_band + AgeBand.ADULT, axis=0)
        known = patients >= 0
        table = self._roster.patients
        bands = np.where(known, table["band"][patients], AgeBand.ADULT)
        limits = _NORMAL.take(by_band + bands, axis=0)
        slots = np.where(known, table["preset_slot"][patients], -1)
        chosen = np.flatnonzero(slots >= 0)
        if len(chosen):
            preset = self._limits[slots[chosen], metrics[chosen]]
            limits[chosen] = np.where(np.isnan(preset), limits[chosen], preset)
        return limits

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
        self._limits = np.full((count, MAX_ID + 1, len(LimitRule)), np.nan)
        table = tables["presets"]
        slots, metrics = table["slot"].to_numpy(), table["metric"].to_numpy()
        for rule in LimitRule:
            self._limits[slots, metrics, rule] = table[rule.name.lower()].to_numpy()
