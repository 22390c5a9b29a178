"""NEWS2, the National Early Warning Score 2, over arrays of observations.

Source: Royal College of Physicians, NEWS2 (2017), chart 1; the score may be reproduced with acknowledgement. Not for
patients under 16 or pregnant. A missing input gives no total; what is missing is named, and a single 3 still counts.
Clause 6.3f.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray


class Parameter(IntEnum):
    """The seven inputs; the value is the column index in every array of this module."""

    RESP_RATE = 0  # /min
    SPO2 = 1  # %
    OXYGEN = 2  # 0 air, 1 supplemental oxygen
    SYSTOLIC = 3  # mm[Hg]
    PULSE = 4  # /min
    CONSCIOUSNESS = 5  # 0 alert, anything else C, V, P or U
    TEMPERATURE = 6  # Cel


@dataclass(frozen=True, slots=True)
class InputSource:
    """Where an input may come from. `scale` turns its value into the input's; a proxy is named as one."""

    metric: str
    is_proxy: bool = False


# In order of preference: the first usable one within the window is taken.
INPUT_SOURCES: Final[dict[Parameter, tuple[InputSource, ...]]] = {
    Parameter.RESP_RATE: (InputSource("resp_rate"), InputSource("co2_resp_rate"), InputSource("vent_rate", is_proxy=True)),
    Parameter.SPO2: (InputSource("spo2"), InputSource("sao2", is_proxy=True)),
    Parameter.OXYGEN: (
        InputSource("oxygen_therapy"),
        InputSource("fio2", is_proxy=True),  # above 21 % is supplemental oxygen
        InputSource("mechanical_ventilation", is_proxy=True),
    ),
    Parameter.SYSTOLIC: (InputSource("abp_sys"), InputSource("nibp_sys")),
    Parameter.PULSE: (InputSource("heart_rate"), InputSource("pulse_rate")),
    Parameter.CONSCIOUSNESS: (InputSource("acvpu"), InputSource("gcs_total", is_proxy=True)),  # 15 is alert
    Parameter.TEMPERATURE: (InputSource("body_temp"),),
}

# How long an observation stands for its input. Continuous signs 1 h, as on an hourly chart; what people or a cuff
# measure stays until the next routine round; consciousness and oxygen until the next full observation.
VALIDITY_WINDOWS_S: Final[dict[Parameter, float]] = {
    Parameter.RESP_RATE: 3600,
    Parameter.SPO2: 3600,
    Parameter.OXYGEN: 43_200,
    Parameter.SYSTOLIC: 14_400,
    Parameter.PULSE: 3600,
    Parameter.CONSCIOUSNESS: 43_200,
    Parameter.TEMPERATURE: 14_400,
}
MIN_AGE_YEARS: Final = 16.0
FIO2_OF_AIR_PCT: Final = 21.0
GCS_ALERT: Final = 15.0
URGENT: Final = 5
EMERGENCY: Final = 7


@dataclass(frozen=True, slots=True)
class News2:
    """`points` [n, 7] (NaN where the input is missing), `total` [n] (NaN unless all are there), `has_three` [n]."""

    points: NDArray[np.float64]
    total: NDArray[np.float64]
    has_three: NDArray[np.bool_]


def round_to_chart(value: NDArray[np.float64], parameter: Parameter) -> NDArray[np.float64]:
    """Round half up to the chart's precision: temperature 0.1, all others whole numbers."""
    steps = 10.0 if parameter is Parameter.TEMPERATURE else 1.0
    # the tiny term lifts 38.05, which binary floating point holds as 38.04999…, over its half
    return np.floor(value * steps + 0.5 + 1e-9) / steps


def score(inputs: NDArray[np.float64], spo2_scale_2: NDArray[np.bool_]) -> News2:
    """Score rows of observations.

    Args:
        inputs: [n, 7] in the order and units of `Parameter`, NaN where missing.
        spo2_scale_2: [n] whether scale 2 (hypercapnic failure, prescribed) applies.
    """
    points = np.full(inputs.shape, np.nan)
    on_oxygen = inputs[:, Parameter.OXYGEN] > 0
    for parameter, edges, given in _BANDS:
        points[:, parameter] = _banded(round_to_chart(inputs[:, parameter], parameter), edges, given)
    spo2 = round_to_chart(inputs[:, Parameter.SPO2], Parameter.SPO2)
    scale_2 = np.where(
        on_oxygen | (spo2 < _SCALE_2_ON_AIR), _banded(spo2, _SPO2_2_EDGES, _SPO2_2_POINTS), np.where(np.isnan(spo2), np.nan, 0)
    )
    points[:, Parameter.SPO2] = np.where(spo2_scale_2, scale_2, _banded(spo2, _SPO2_1_EDGES, _SPO2_1_POINTS))
    for parameter, high in ((Parameter.OXYGEN, 2.0), (Parameter.CONSCIOUSNESS, 3.0)):
        given_value = inputs[:, parameter]
        points[:, parameter] = np.where(np.isnan(given_value), np.nan, np.where(given_value > 0, high, 0.0))
    return News2(points, points.sum(axis=1), np.asarray(np.any(points == 3, axis=1)))


# edges: the first value of each next band; points: one more than edges
_SPO2_1_EDGES: Final = (92.0, 94.0, 96.0)
_SPO2_1_POINTS: Final = (3.0, 2.0, 1.0, 0.0)
_SPO2_2_EDGES: Final = (84.0, 86.0, 88.0, 93.0, 95.0, 97.0)
_SPO2_2_POINTS: Final = (3.0, 2.0, 1.0, 0.0, 1.0, 2.0, 3.0)
_SCALE_2_ON_AIR: Final = 93.0  # from here on, scale 2 scores 0 on air
_BANDS: Final = (
    (Parameter.RESP_RATE, (9.0, 12.0, 21.0, 25.0), (3.0, 1.0, 0.0, 2.0, 3.0)),
    (Parameter.SYSTOLIC, (91.0, 101.0, 111.0, 220.0), (3.0, 2.0, 1.0, 0.0, 3.0)),
    (Parameter.PULSE, (41.0, 51.0, 91.0, 111.0, 131.0), (3.0, 1.0, 0.0, 1.0, 2.0, 3.0)),
    (Parameter.TEMPERATURE, (35.1, 36.1, 38.1, 39.1), (3.0, 1.0, 0.0, 1.0, 2.0)),
)


def _banded(value: NDArray[np.float64], edges: tuple[float, ...], points: tuple[float, ...]) -> NDArray[np.float64]:
    # half a step below each edge, so that 35.1 computed as 351/10 falls on its own side
    band = np.searchsorted(np.array(edges) - 1e-6, value, side="right")
    found: NDArray[np.float64] = np.where(np.isnan(value), np.nan, np.array(points)[np.minimum(band, len(points) - 1)])
    return found
