"""Sentinels by thing model: numbers by which a kind of device says *nothing measured*.

A door does this for devices that connect themselves; what a gateway carries is screened here, where each device's
model is known. The number stays readable as the raw value. An apnoea's real zero is no sentinel: models declare.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from domain.compiled import Floats, Floats3D, Int16s, OutBools, UInt16s, compiled
from domain.metrics import MAX_ID
from domain.quality import Validity, is_usable, with_validity
from domain.readings import ReadingBatch
from domain.thing_catalogue import THING_MODELS


def _sentinels() -> NDArray[np.float64]:
    """[model, metric, n] sentinels, NaN where there are fewer."""
    most = max(len(model.sentinels_of(metric)) for model in THING_MODELS for metric in (*model.by_metric, 0))
    table = np.full((len(THING_MODELS), MAX_ID + 1, max(most, 1)), np.nan)
    for number, model in enumerate(THING_MODELS):
        for metric in model.by_metric:
            values = model.sentinels_of(metric)
            table[number, metric, : len(values)] = values
    return table


_SENTINELS: Final = _sentinels()


def screen(batch: ReadingBatch, models: NDArray[np.int16]) -> ReadingBatch:
    """`batch` with sentinels turned to *not available*, value NaN, raw value kept. `models`: of each reading's device."""
    rows = np.flatnonzero(_is_sentinel(models, batch))
    rows = rows[is_usable(batch.quality[rows])]
    if not len(rows):
        return batch
    value, raw_value, quality = batch.value.copy(), batch.raw_value.copy(), batch.quality.copy()
    unconverted = rows[np.isnan(raw_value[rows])]
    raw_value[unconverted] = value[unconverted]
    value[rows] = np.nan
    quality[rows] = with_validity(quality[rows], Validity.NOT_AVAILABLE)
    return batch.with_columns(value=value, raw_value=raw_value, quality=quality)


def _is_sentinel(models: NDArray[np.int16], batch: ReadingBatch) -> NDArray[np.bool_]:
    found = np.zeros(len(batch), dtype=np.bool_)
    _find(models, batch.metric, batch.value, _SENTINELS, found)
    return found


@compiled
def _find(models: Int16s, metrics: UInt16s, values: Floats, sentinels: Floats3D, found: OutBools) -> None:
    for i in range(len(values)):
        for k in range(sentinels.shape[2]):
            if values[i] == sentinels[models[i], metrics[i], k]:  # NaN fills the list up, and equals nothing
                found[i] = True
