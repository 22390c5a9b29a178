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

CLIP: Final = 3.0  # deviations beyond which a reading teaches no more
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
        """Score values of distinct rows against what came before, then learn from them.

        NaN values are not learnt from and score NaN.
        """
        self._grow(int(rows.max(initial=-1)) + 1)
        location, deviation, count = self._location[rows], self._deviation[rows], self._count[rows]
        scale = np.maximum(deviation * _TO_SIGMA, np.maximum(self._floor, self._floor_share * np.abs(location)))
        distance = values - location
        scores: NDArray[np.float64] = np.where(count >= self._learn, np.abs(distance) / scale, np.nan)
        seen = ~np.isnan(values)
        # plain averages while learning, so that the first readings weigh alike
        weight = np.maximum(self._weight, 1.0 / (count + 1.0))
        step = np.where(count >= self._learn, np.clip(distance, -CLIP * scale, CLIP * scale), distance)
        self._location[rows] = np.where(seen, location + weight * step, location)
        self._deviation[rows] = np.where(seen & (count > 0), deviation + weight * (np.abs(step) - deviation), deviation)
        self._count[rows] = count + seen
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
