"""Quality of a reading: validity x mode x origin, and marks, packed into one uint16 column.

Validity is IEEE 11073-10207 MeasurementValidity; mode and origin keep test data and derived values apart
from what a sensor measured on a patient. Layout (stable, it is on disk): bits 0-3 validity, 4-5 mode,
6-7 origin, 8-15 marks.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

QualityArray: TypeAlias = NDArray[np.uint16]
SKEWED_US: Final = 5_000_000  # a clock that is off by more is said to be


class Validity(IntEnum):
    VALID = 0
    QUESTIONABLE = 1
    CALIBRATING = 2
    INVALID = 3
    NOT_AVAILABLE = 4
    OVERFLOW = 5
    UNDERFLOW = 6
    ONGOING = 7
    VALIDATED = 8


class Mode(IntEnum):
    REAL = 0
    TEST = 1
    DEMO = 2


class Origin(IntEnum):
    MEASURED = 0
    ENTERED = 1
    DERIVED = 2


class Mark(IntFlag):
    """Why a reading deserves a second look. A mark never drops a reading."""

    IMPLAUSIBLE = 1 << 8  # outside the metric's plausible range for the age band
    LATE = 1 << 9  # arrived longer after its event time than the platform calls live
    OUT_OF_ORDER = 1 << 10  # older than the channel's newest reading
    CLOCK_SKEWED = 1 << 11  # the clock of its source is off by more than SKEWED_US; event time as sent
    POSSIBLE_DUPLICATE = 1 << 12  # same channel, time and value as an earlier one, no sequence to prove it
    CONFLICT = 1 << 13  # a different value for the same channel and time exists
    CONVERTED = 1 << 14  # the raw value was in another unit and is kept beside
    BACKFILL = 1 << 15  # the sender says it is catching up


_MODE_SHIFT: Final = 4
_ORIGIN_SHIFT: Final = 6
USABLE_VALIDITIES: Final = (Validity.VALID, Validity.QUESTIONABLE, Validity.VALIDATED)
_USABLE: Final = np.zeros(16, dtype=np.bool_)
_USABLE[list(USABLE_VALIDITIES)] = True
MAY_ALARM: Final = np.zeros(1 << _ORIGIN_SHIFT, dtype=np.bool_)  # by validity and mode: what `may_alarm` says
MAY_ALARM[: 1 << _MODE_SHIFT] = _USABLE  # Mode.REAL


def pack(
    validity: Validity = Validity.VALID,
    mode: Mode = Mode.REAL,
    origin: Origin = Origin.MEASURED,
    marks: int = 0,
) -> int:
    """The uint16 of the given parts."""
    return int(validity) | int(mode) << _MODE_SHIFT | int(origin) << _ORIGIN_SHIFT | marks


def validity_of(quality: QualityArray) -> NDArray[np.uint16]:
    """Validity codes (see `Validity`), elementwise."""
    return quality & np.uint16(0xF)


def mode_of(quality: QualityArray) -> NDArray[np.uint16]:
    """Mode codes (see `Mode`), elementwise."""
    return (quality >> np.uint16(_MODE_SHIFT)) & np.uint16(0x3)


def origin_of(quality: QualityArray) -> NDArray[np.uint16]:
    """Origin codes (see `Origin`), elementwise."""
    return (quality >> np.uint16(_ORIGIN_SHIFT)) & np.uint16(0x3)


def has_mark(quality: QualityArray, mark: Mark) -> NDArray[np.bool_]:
    """Where any of `mark` is set."""
    marked: NDArray[np.bool_] = (quality & np.uint16(int(mark))) != 0
    return marked


def is_usable(quality: QualityArray) -> NDArray[np.bool_]:
    """Where a number was measured or entered (valid, questionable or validated), in any mode."""
    usable: NDArray[np.bool_] = _USABLE[validity_of(quality)]
    return usable


def may_alarm(quality: QualityArray) -> NDArray[np.bool_]:
    """Where a reading may feed a clinical alarm: usable and real. Test and demo data never alarm."""
    alarming: NDArray[np.bool_] = MAY_ALARM[quality & np.uint16(len(MAY_ALARM) - 1)]
    return alarming


def with_validity(quality: QualityArray, validity: Validity) -> QualityArray:
    """A copy with its validity replaced, all else kept."""
    return (quality & np.uint16(0xFFF0)) | np.uint16(int(validity))


def describe(quality: int) -> dict[str, object]:
    """The parts in words, for people and JSON: `{"validity": "valid", "mode": "real", "origin": …, "marks": […]}`."""
    return {
        "validity": Validity(quality & 0xF).name.lower().replace("_", "-"),
        "mode": Mode(quality >> _MODE_SHIFT & 0x3).name.lower(),
        "origin": Origin(quality >> _ORIGIN_SHIFT & 0x3).name.lower(),
        "marks": [mark.name.lower().replace("_", "-") for mark in Mark if quality & int(mark) and mark.name],
    }
