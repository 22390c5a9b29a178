"""What every door checks of readings before it takes them, as columns; the JSON doors do the same value by value.

Refused, the whole message, so that a sender never wonders which half was kept (`RejectedInput`):
  unknown-metric, unknown-instance  not in the metric table, derived by the platform alone (scores), or not of the model
  wrong-unit                        a raw unit that does not convert to the metric's unit
  malformed-value                   an infinite value, or quality bits that mean nothing
  implausible-time                  before 2000 or more than a day ahead of arrival: a clock that never was set. Stored
                                    under an invented time it could not be corrected later; as a reject it can
  wrong-source                      a source that is neither the sender nor the device itself: sequences prove
                                    retransmissions, so nobody may spend another's
Taken and marked: implausible values (Mark.IMPLAUSIBLE, questionable; a dying patient's values are implausible), a
model's sentinels and NaN (not available, the number sent is kept as raw value). The band of plausibility is the
adult's: the door does not know the patient. Marks that the platform decides are taken off; a sender may say BACKFILL
and CLOCK_SKEWED.
"""

from __future__ import annotations

from math import isnan
from typing import Final

import numpy as np
from numpy.typing import NDArray

from domain.ages import AgeBand
from domain.errors import RejectedInput
from domain.instants import DAY_US, US_PER_S, from_us
from domain.metrics import BY_ID, MAX_ID, PLAUSIBLE_HIGH, PLAUSIBLE_LOW
from domain.ports import Sender
from domain.quality import (
    USABLE_VALIDITIES,
    Mark,
    Mode,
    Origin,
    Validity,
    is_usable,
    mode_of,
    origin_of,
    validity_of,
    with_validity,
)
from domain.readings import ReadingBatch
from domain.thing_models import ThingModel
from domain.units import CANONICAL, UNITS
from gateways.model_rules import ANY_INSTANCE, rules_of

EARLIEST_US: Final = 946_684_800 * US_PER_S  # 2000-01-01
FURTHEST_AHEAD_US: Final = DAY_US
_LOW: Final = PLAUSIBLE_LOW[:, AgeBand.ADULT]
_HIGH: Final = PLAUSIBLE_HIGH[:, AgeBand.ADULT]
_LAST_VALIDITY: Final = int(max(Validity))
_LAST_MODE: Final = int(max(Mode))
_SENDERS_MARKS: Final = np.uint16(0xFF | Mark.BACKFILL | Mark.CLOCK_SKEWED)
_Bools = NDArray[np.bool_]


def time_is_sane(time_us: int, arrival_us: int) -> bool:
    """Whether an event time can be one: not before 2000 and at most a day ahead of its arrival."""
    return EARLIEST_US <= time_us <= arrival_us + FURTHEST_AHEAD_US


def time_detail(time_us: int) -> str:
    """The sentence for a time that is not sane."""
    try:
        said = from_us(time_us).isoformat()
    except (OverflowError, ValueError, OSError):
        said = f"{time_us} µs"
    return f"event time {said} cannot be: expected one from 2000 on and at most a day ahead of arrival"


def check_readings(readings: ReadingBatch, sender: Sender, arrival_us: int) -> ReadingBatch:
    """The readings of a frame as they will be stored. Raises RejectedInput as the module says."""
    model = sender.model
    _check_metrics(readings, model)
    _check_quality(readings)
    sane = (readings.time_us >= EARLIEST_US) & (readings.time_us <= arrival_us + FURTHEST_AHEAD_US)
    row = _first(~sane)
    if row is not None:
        raise RejectedInput("implausible-time", f"reading {row}: {time_detail(int(readings.time_us[row]))}")
    source = np.where(readings.source == 0, np.uint32(sender.handle), readings.source)
    row = _first((source != sender.handle) & (source != readings.handle))
    if row is not None:
        raise RejectedInput("wrong-source", f"reading {row} names source {source[row]}: expected the sender's or its device's")
    converted = _with_units(readings.with_columns(source=source, quality=readings.quality & _SENDERS_MARKS))
    return _with_plausibility(_with_missing(converted, model))


def _check_metrics(readings: ReadingBatch, model: ThingModel | None) -> None:
    instances = rules_of(model).instances if model else ANY_INSTANCE
    known = instances[np.minimum(readings.metric, MAX_ID + 1)]
    row = _first(known == 0)
    if row is not None:
        kind = f"thing model {model.id}" if model else "the metric table"
        raise RejectedInput("unknown-metric", f"reading {row} is of metric id {readings.metric[row]}, which {kind} has not")
    row = _first(readings.instance >= known)
    if row is not None:
        raise RejectedInput(
            "unknown-instance", f"reading {row} is of instance {readings.instance[row]}: expected below {known[row]}"
        )


def _check_quality(readings: ReadingBatch) -> None:
    quality = readings.quality
    wrong = (validity_of(quality) > _LAST_VALIDITY) | (mode_of(quality) > _LAST_MODE) | (origin_of(quality) > Origin.ENTERED)
    row = _first(wrong)
    if row is not None:
        raise RejectedInput("malformed-value", f"reading {row} has quality {quality[row]:#06x}, which no sender may give")
    row = _first(np.isinf(readings.value) | np.isinf(readings.raw_value))
    if row is not None:
        raise RejectedInput("malformed-value", f"reading {row} has an infinite value: expected a number or NaN")


def _with_units(readings: ReadingBatch) -> ReadingBatch:
    """Values of rows that carry a raw unit are computed from their raw value, so that no two conversions differ."""
    if not readings.raw_unit.any():
        return readings
    unit = np.minimum(readings.raw_unit, len(_FACTOR) - 1)
    fits = _CONVERTS[unit, readings.metric] | (readings.raw_unit == CANONICAL)
    row = _first(~fits)
    if row is not None:
        metric = BY_ID[int(readings.metric[row])]
        raise RejectedInput(
            "wrong-unit", f"reading {row} has unit code {readings.raw_unit[row]}: {metric.code} is in {metric.unit}"
        )
    sent = (readings.raw_unit != CANONICAL) & ~np.isnan(readings.raw_value)
    with np.errstate(over="ignore"):
        value = np.where(sent, readings.raw_value * _FACTOR[unit] + _OFFSET[unit], readings.value)
    row = _first(np.isinf(value))
    if row is not None:
        raise RejectedInput("malformed-value", f"reading {row} has a raw value too large to convert")
    quality = np.where(sent, readings.quality | np.uint16(Mark.CONVERTED), readings.quality)
    return readings.with_columns(value=value, quality=quality)


def _with_missing(readings: ReadingBatch, model: ThingModel | None) -> ReadingBatch:
    """NaN and the model's sentinels become *not available*; a sentinel stays readable as the raw value."""
    quality, value, raw_value = readings.quality, readings.value, readings.raw_value
    if model is not None:
        sent = np.where(np.isnan(raw_value), value, raw_value)
        sentinel = (sent[:, None] == rules_of(model).sentinels[readings.metric]).any(axis=1)
        raw_value = np.where(sentinel, sent, raw_value)
        value = np.where(sentinel, np.nan, value)
        quality = np.where(sentinel, quality & np.uint16(0xFFFF ^ Mark.CONVERTED), quality)
    missing = np.isnan(value) & is_usable(quality)
    quality = np.where(missing, with_validity(quality, Validity.NOT_AVAILABLE), quality)
    return readings.with_columns(value=value, raw_value=raw_value, quality=quality)


def _with_plausibility(readings: ReadingBatch) -> ReadingBatch:
    absurd = (readings.value < _LOW[readings.metric]) | (readings.value > _HIGH[readings.metric])
    if not absurd.any():
        return readings
    marked = readings.quality | np.uint16(Mark.IMPLAUSIBLE)
    marked = np.where(is_usable(marked), with_validity(marked, Validity.QUESTIONABLE), marked)
    return readings.with_columns(quality=np.where(absurd, marked, readings.quality))


def judge(value: float, metric_id: int, quality: int) -> int:
    """The quality of one value of `quality` as the columns' checks would give it."""
    if isnan(value):
        return quality & 0xFFF0 | Validity.NOT_AVAILABLE if _USABLE[quality & 0xF] else quality
    if _SCALAR_LOW[metric_id] <= value <= _SCALAR_HIGH[metric_id]:
        return quality
    return (quality & 0xFFF0 | Validity.QUESTIONABLE if _USABLE[quality & 0xF] else quality) | Mark.IMPLAUSIBLE


def _first(wrong: _Bools) -> int | None:
    return int(wrong.argmax()) if wrong.any() else None


_USABLE: Final = tuple(code in USABLE_VALIDITIES for code in range(16))
_SCALAR_LOW: Final[list[float]] = _LOW.tolist()
_SCALAR_HIGH: Final[list[float]] = _HIGH.tolist()
_LAST_UNIT: Final = max(unit.code for unit in UNITS)
_FACTOR: Final = np.ones(_LAST_UNIT + 2)
_OFFSET: Final = np.zeros(_LAST_UNIT + 2)
_CONVERTS: Final = np.zeros((_LAST_UNIT + 2, MAX_ID + 1), np.bool_)
for _unit in UNITS:
    _FACTOR[_unit.code], _OFFSET[_unit.code] = _unit.factor, _unit.offset
    for _metric in BY_ID.values():
        _CONVERTS[_unit.code, _metric.id] = _unit.canonical == _metric.unit
