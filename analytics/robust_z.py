"""Robust z: how far a reading is from what its channel has lately been, in its own spread.

Location and mean absolute deviation follow each channel by exponentially weighted averages; the update is winsorised
(a far reading moves them no more than one at CLIP deviations would), so that an anomaly does not become the new normal
at once. Score = |value - location| / scale. Reference: Huber, Robust Statistics, 1981, ch. 6 (winsorised location);
Roberts, Technometrics 1(3), 1959 (EWMA). Limits: one channel at a time, no season, no trend; a lasting step is an
anomaly until the averages have moved there. Clause 9.2d.

>>> detector = RobustZ(learn=4)
>>> rows = np.array([0])
>>> calm = [float(detector.score(rows, np.array([value]))[0]) for value in (70.0, 71.0, 69.0, 70.0, 71.0)]
>>> [bool(np.isnan(score)) for score in calm]
[True, True, True, True, False]
>>> bool(detector.score(rows, np.array([140.0]))[0] > 6)
True
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from domain.compiled import Floats, Int64s, OutFloats, OutInt64s, compiled

_CLIP: Final = 3.0  # deviations beyond which a reading teaches no more
_TO_SIGMA: Final = 1.2533  # mean absolute deviation -> standard deviation of a normal law: sqrt(pi / 2)


class RobustZ:
    """State: one location, scale and count a row; grows as rows appear. No randomness: equal input, equal scores.

    Args:
        half_life: readings after which an observation counts half (unitless).
        learn: readings of a row before it is scored; NaN until then.
        floor_share: the least scale, as a share of |location|: a channel that stands still is not infinitely precise.
        floor: the least scale, in the metric's unit.
    """

    name = "robust-z"
    version = 1

    def __init__(self, half_life: float = 120.0, learn: int = 30, floor_share: float = 0.02, floor: float = 0.1) -> None:
        self._weight = 1.0 - 0.5 ** (1.0 / half_life)
        self._learn = learn
        self._floor_share = floor_share
        self._floor = floor
        self._location = np.empty(0)
        self._deviation = np.empty(0)
        self._count = np.empty(0, dtype=np.int64)
        self._rows = 0  # in use; the arrays grow ahead of it

    def score(self, rows: NDArray[np.intp], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score values in order, each against what came before it in its row, then learn from it.

        NaN values are not learnt from and score NaN.
        """
        self._grow(int(rows.max(initial=-1)) + 1)
        scores = np.empty(len(rows))
        _score(
            rows, values, self._weight, self._learn, self._floor, self._floor_share,
            self._location, self._deviation, self._count, scores,
        )  # fmt: skip
        return scores

    def state(self) -> dict[str, NDArray[Any]]:
        """A copy of all that it has learnt, one array a column; `load_state` of it goes on as if never stopped."""
        columns = {"location": self._location, "deviation": self._deviation, "count": self._count}
        return {name: column[: self._rows].copy() for name, column in columns.items()}

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        self._location = np.array(state["location"], dtype=np.float64)
        self._deviation = np.array(state["deviation"], dtype=np.float64)
        self._count = np.array(state["count"], dtype=np.int64)
        self._rows = len(self._count)

    def _grow(self, rows: int) -> None:
        self._rows = max(self._rows, rows)
        if rows > len(self._count):
            missing = max(rows, 2 * len(self._count)) - len(self._count)
            self._location = np.concatenate([self._location, np.zeros(missing)])
            self._deviation = np.concatenate([self._deviation, np.zeros(missing)])
            self._count = np.concatenate([self._count, np.zeros(missing, dtype=np.int64)])


@compiled
def _score(
    rows: Int64s, values: Floats, least_weight: float, learn: int, floor: float, floor_share: float,
    locations: OutFloats, deviations: OutFloats, counts: OutInt64s, scores: OutFloats,
) -> None:  # fmt: skip
    for i in range(len(rows)):
        row, scores[i] = rows[i], np.nan
        if np.isnan(values[i]):
            continue
        location, deviation, count = locations[row], deviations[row], counts[row]
        step = values[i] - location
        if count >= learn:
            scale = max(deviation * _TO_SIGMA, floor, floor_share * abs(location))
            scores[i] = abs(step) / scale
            step = min(max(step, -_CLIP * scale), _CLIP * scale)
        weight = max(least_weight, 1.0 / (count + 1.0))  # plain averages while learning: the first readings weigh alike
        locations[row] = location + weight * step
        if count > 0:
            deviations[row] = deviation + weight * (abs(step) - deviation)
        counts[row] = count + 1
