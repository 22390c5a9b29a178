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

    @property
    def words(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, slots=True)
class InputSource:
    """A metric that an input may come from. A proxy stands for something it is not, and is named wherever it is used."""

    metric: str
    is_proxy: bool = False


# In order of preference: the first one with a usable reading within its window is taken. The ventilator's rate counts
# breaths that a machine may give; it stands in only where nobody counts the patient's own.
INPUT_SOURCES: Final[dict[Parameter, tuple[InputSource, ...]]] = {
    Parameter.RESP_RATE: (InputSource("resp_rate"), InputSource("co2_resp_rate"), InputSource("vent_rate", is_proxy=True)),
    Parameter.SPO2: (InputSource("spo2"), InputSource("sao2", is_proxy=True)),
    Parameter.OXYGEN: (
        InputSource("oxygen_therapy"),
        InputSource("fio2", is_proxy=True),  # above 21 % is supplemental oxygen
        InputSource("mechanical_ventilation", is_proxy=True),  # 1 is; 0 says nothing of a mask, so it is no input
    ),
    Parameter.SYSTOLIC: (InputSource("abp_sys"), InputSource("nibp_sys")),
    Parameter.PULSE: (InputSource("heart_rate"), InputSource("pulse_rate")),
    Parameter.CONSCIOUSNESS: (InputSource("acvpu"), InputSource("gcs_total", is_proxy=True)),  # 15 is alert
    Parameter.TEMPERATURE: (InputSource("body_temp"),),
}

# How long an observation of each source metric stands. Continuous signs 1 h, as on an hourly chart; what people, a cuff
# or a blood gas give stays until the next routine round, 4 h; consciousness and oxygen until the next full round, 12 h.
VALIDITY_WINDOWS_S: Final[dict[str, int]] = {
    "resp_rate": 3600, "co2_resp_rate": 3600, "vent_rate": 3600,
    "spo2": 3600, "sao2": 14_400,
    "oxygen_therapy": 43_200, "fio2": 43_200, "mechanical_ventilation": 43_200,
    "abp_sys": 3600, "nibp_sys": 14_400,
    "heart_rate": 3600, "pulse_rate": 3600,
    "acvpu": 43_200, "gcs_total": 43_200,
    "body_temp": 14_400,
}  # fmt: skip
MIN_AGE_YEARS: Final = 16.0
FIO2_OF_AIR_PCT: Final = 21.0
GCS_ALERT: Final = 15.0
URGENT: Final = 5
EMERGENCY: Final = 7

SOURCES: Final = tuple((parameter, source) for parameter, sources in INPUT_SOURCES.items() for source in sources)
SOURCE_METRICS: Final = tuple(source.metric for _, source in SOURCES)  # the columns of per-source arrays
WINDOWS_US: Final = np.array([VALIDITY_WINDOWS_S[metric] * 1_000_000 for metric in SOURCE_METRICS], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class News2:
    """`points` [n, 7] (NaN where the input is missing), `total` [n] (NaN unless all are there), `has_three` [n]."""

    points: NDArray[np.float64]
    total: NDArray[np.float64]
    has_three: NDArray[np.bool_]


def round_to_chart(value: NDArray[np.float64], parameter: Parameter) -> NDArray[np.float64]:
    """Round half up to the chart's precision: temperature 0.1, all others whole numbers."""
    steps = 10.0 if parameter is Parameter.TEMPERATURE else 1.0
    # the small term lifts 38.05, which binary floating point holds as 38.04999…, over its half
    return np.floor(value * steps + 0.5 + 1e-6) / steps


def inputs_at(values: NDArray[np.float64], age_us: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Choose the inputs of each row from its sources.

    Args:
        values: [n, sources] newest usable value of each of SOURCE_METRICS, in the metric's unit, NaN where there is none.
        age_us: [n, sources] how old it is; a negative age (a reading from later) is not taken.

    Returns:
        [n, 7] inputs for `score`, NaN where missing, and [n, 7] the column of the source taken, -1 where missing.
    """
    inputs = np.full((len(values), len(Parameter)), np.nan)
    taken = np.full((len(values), len(Parameter)), -1, dtype=np.int8)
    fits = (age_us >= 0) & (age_us <= WINDOWS_US)
    for column in reversed(range(len(SOURCES))):  # the preferred source is written last
        parameter, source = SOURCES[column]
        value = _as_input(source.metric, values[:, column])
        use = fits[:, column] & ~np.isnan(value)
        inputs[use, parameter] = value[use]
        taken[use, parameter] = column
    return inputs, taken


def score(inputs: NDArray[np.float64], is_scale_2: NDArray[np.bool_]) -> News2:
    """Score rows of observations.

    Args:
        inputs: [n, 7] in the order and units of `Parameter`, NaN where missing.
        is_scale_2: [n] whether SpO2 scale 2 (hypercapnic failure, prescribed) applies. On it a saturation of 93 % or
            more cannot be scored without knowing about oxygen, and counts as missing.
    """
    points = np.full(inputs.shape, np.nan)
    for parameter, edges, given in _BANDS:
        points[:, parameter] = _banded(round_to_chart(inputs[:, parameter], parameter), edges, given)
    spo2 = round_to_chart(inputs[:, Parameter.SPO2], Parameter.SPO2)
    points[:, Parameter.SPO2] = np.where(
        is_scale_2,
        _scale_2(spo2, inputs[:, Parameter.OXYGEN]),
        _banded(spo2, (92.0, 94.0, 96.0), (3.0, 2.0, 1.0, 0.0)),
    )
    for parameter, high in ((Parameter.OXYGEN, 2.0), (Parameter.CONSCIOUSNESS, 3.0)):
        given_value = inputs[:, parameter]
        points[:, parameter] = np.where(np.isnan(given_value), np.nan, np.where(given_value > 0, high, 0.0))
    return News2(points, points.sum(axis=1), np.asarray(np.any(points == 3, axis=1)))


# (parameter, the first value of each next band, points of the bands: one more than edges); chart 1
_BANDS: Final = (
    (Parameter.RESP_RATE, (9.0, 12.0, 21.0, 25.0), (3.0, 1.0, 0.0, 2.0, 3.0)),
    (Parameter.SYSTOLIC, (91.0, 101.0, 111.0, 220.0), (3.0, 2.0, 1.0, 0.0, 3.0)),
    (Parameter.PULSE, (41.0, 51.0, 91.0, 111.0, 131.0), (3.0, 1.0, 0.0, 1.0, 2.0, 3.0)),
    (Parameter.TEMPERATURE, (35.1, 36.1, 38.1, 39.1), (3.0, 1.0, 0.0, 1.0, 2.0)),
)
_SCALE_2_OXYGEN_MATTERS_PCT: Final = 93.0


def _scale_2(spo2: NDArray[np.float64], oxygen: NDArray[np.float64]) -> NDArray[np.float64]:
    on_oxygen = _banded(spo2, (84.0, 86.0, 88.0, 93.0, 95.0, 97.0), (3.0, 2.0, 1.0, 0.0, 1.0, 2.0, 3.0))
    above = np.where(np.isnan(oxygen), np.nan, np.where(oxygen > 0, on_oxygen, 0.0))
    points: NDArray[np.float64] = np.where(spo2 >= _SCALE_2_OXYGEN_MATTERS_PCT, above, on_oxygen)
    return points


def _banded(value: NDArray[np.float64], edges: tuple[float, ...], points: tuple[float, ...]) -> NDArray[np.float64]:
    # values are whole steps of the chart: half a thousandth below each edge keeps 351/10 on its own side
    band = np.searchsorted(np.array(edges) - 5e-4, value, side="right")
    found: NDArray[np.float64] = np.where(np.isnan(value), np.nan, np.array(points)[np.minimum(band, len(points) - 1)])
    return found


def _as_input(metric: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
    """A source's value as its input: oxygen and consciousness become 0 or 1."""
    missing = np.isnan(value)
    match metric:
        case "fio2":
            return np.where(missing, np.nan, value > FIO2_OF_AIR_PCT)
        case "gcs_total":
            return np.where(missing, np.nan, value < GCS_ALERT)
        case "mechanical_ventilation":
            return np.where(value > 0, 1.0, np.nan)
        case _:
            return value
