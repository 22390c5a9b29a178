"""Patients as arrays: a baseline by age, a severity that episodes drive, and vital signs that follow from both.

Signs move together as they do in a deteriorating adult: heart and breathing quicken, pressure and saturation fall,
temperature rises with sepsis. The shifts at full severity are chosen so that NEWS2 passes 7 well before it.
Not a model of any one disease: a load with a plausible shape. Units are those of `domain.metrics`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

SIGNS: Final = ("heart_rate", "resp_rate", "spo2", "body_temp", "sys", "dia", "etco2", "cvp")
# at full severity: what is added to each sign; scatter: standard deviation of its short-term noise
_SHIFT: Final = np.array([55.0, 16.0, -14.0, 2.2, -45.0, -25.0, -8.0, 4.0])
_NOISE: Final = np.array([2.2, 0.9, 0.5, 0.05, 3.0, 2.0, 1.0, 0.6])
_LOW: Final = np.array([20.0, 4.0, 50.0, 32.0, 40.0, 20.0, 8.0, -2.0])
_HIGH: Final = np.array([240.0, 60.0, 100.0, 42.0, 240.0, 140.0, 80.0, 30.0])
_MEMORY_S: Final = 20.0  # how long noise stays alike
_RECOVERY_S: Final = 3600.0


class Physiology:
    """All patients of a world; `advance` moves them on, `signs` is [patients, len(SIGNS)]."""

    def __init__(self, age_years: NDArray[np.float64], is_icu: NDArray[np.bool_], rng: np.random.Generator) -> None:
        self._base, self._noise = np.empty((0, len(SIGNS))), np.empty((0, len(SIGNS)))
        self.severity, self._resting, self._target, self._pace_per_s = (np.empty(0) for _ in range(4))
        self._chances: list[tuple[np.random.Generator, int]] = []  # each with how many rows follow it
        self.join(age_years, is_icu, rng)

    def join(
        self, age_years: NDArray[np.float64], is_icu: NDArray[np.bool_], rng: np.random.Generator, illness: float = 0.0
    ) -> None:  # fmt: skip
        """More patients, behind those there are, up to `illness` worse than they will be once they have recovered.

        They have a chance of their own: the signs of the others stay what they would have been.
        """
        count = len(age_years)
        base = _baseline(age_years, rng)
        resting = np.where(is_icu, rng.beta(2, 9, count), rng.beta(1, 14, count)) * 0.6
        severity = resting + illness * rng.random(count) if illness else resting
        self._base = np.vstack([self._base, base])
        self._noise = np.vstack([self._noise, rng.normal(0, 1, (count, len(SIGNS)))])
        self._resting = np.append(self._resting, resting)
        self.severity, self._target = (np.append(before, severity) for before in (self.severity, self._target))
        self._pace_per_s = np.append(self._pace_per_s, np.zeros(count))
        self._chances.append((rng, count))
        self.signs = self._read()

    def deteriorate(self, patients: NDArray[np.intp], target: float, within_s: float) -> None:
        """Drive `patients` towards severity `target` (0..1) over about `within_s` seconds."""
        self._target[patients] = target
        self._pace_per_s[patients] = np.abs(target - self.severity[patients]) / max(within_s, 1.0)

    def recover(self, patients: NDArray[np.intp]) -> None:
        """Let `patients` go back to what they were, over about an hour."""
        self._target[patients] = self._resting[patients]
        self._pace_per_s[patients] = np.abs(self.severity[patients] - self._resting[patients]) / _RECOVERY_S

    def advance(self, seconds: float) -> None:
        """Move all patients on by `seconds`."""
        step = self._pace_per_s * seconds
        self.severity += np.clip(self._target - self.severity, -step, step)
        keep = np.exp(-seconds / _MEMORY_S)
        self._noise *= keep
        self._noise += np.sqrt(1 - keep**2) * np.vstack([rng.normal(0, 1, (count, len(SIGNS))) for rng, count in self._chances])
        self.signs = self._read()

    def _read(self) -> NDArray[np.float64]:
        signs: NDArray[np.float64] = np.clip(self._base + self.severity[:, None] * _SHIFT + self._noise * _NOISE, _LOW, _HIGH)
        return signs


def _baseline(age_years: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Resting signs by age: a child's heart and breath are quicker and its pressure lower."""
    count = len(age_years)
    child = np.clip((16 - age_years) / 16, 0, 1)
    columns = (
        76 + 55 * child + rng.normal(0, 7, count),
        15.5 + 16 * child + rng.normal(0, 1.2, count),
        np.minimum(97.4 + rng.normal(0, 0.8, count), 99.5),
        36.7 + rng.normal(0, 0.2, count),
        124 - 42 * child + rng.normal(0, 9, count),
        74 - 24 * child + rng.normal(0, 6, count),
        36 + rng.normal(0, 1.5, count),
        7 + rng.normal(0, 1.5, count),
    )
    return np.column_stack(columns)
