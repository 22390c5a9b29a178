"""Limit rules: when a vital sign leaves its normal range, by age, or a range preset for one patient.

Each side of a metric has two steps: a warning (medium priority) and a critical one (high). A rule fires when a
reading is strictly beyond its limit and has stayed there for `delay_s` of event time; it ends when a reading comes
back inside the limit by `hysteresis`. Clause 6.3f (normal range, preset threshold).

These are the platform's defaults, to be confirmed by each hospital. Sources: adult values after the default alarm
settings commonly shipped on bedside monitors and NEWS2 chart 1 (RCP 2017) for the critical steps; children's heart
and respiratory rates and systolic limits after AHA PALS 2020, vital signs by age. Delays on SpO2 follow the published
effect on alarm burden (15 s delay: 60 % fewer).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from domain.ages import AgeBand
from domain.alarms import Priority
from domain.errors import InvalidInput
from domain.metrics import MAX_ID, metric_of

RULE_VERSION: Final = 1
INF: Final = float("inf")


class LimitRule(IntEnum):
    """The four limit rules of a channel; the value is the column index in limit tables."""

    VERY_LOW = 0
    LOW = 1
    HIGH = 2
    VERY_HIGH = 3

    @property
    def is_low(self) -> bool:
        return self in (LimitRule.VERY_LOW, LimitRule.LOW)

    @property
    def priority(self) -> Priority:
        return Priority.HIGH if self in (LimitRule.VERY_LOW, LimitRule.VERY_HIGH) else Priority.MEDIUM

    @property
    def rule_name(self) -> str:
        return f"limit.{self.name.lower().replace('_', '-')}"


@dataclass(frozen=True, slots=True)
class Limits:
    """One metric's limits for one age band, in the metric's unit; +-inf where there is none."""

    very_low: float = -INF
    low: float = -INF
    high: float = INF
    very_high: float = INF

    def as_tuple(self) -> tuple[float, float, float, float]:
        return (self.very_low, self.low, self.high, self.very_high)


@dataclass(frozen=True, slots=True)
class LimitProfile:
    """How one metric alarms: limits by age band, delay, hysteresis and the largest believable rate of change."""

    metric: str
    delay_s: float
    hysteresis: float
    adult: Limits
    by_age: tuple[tuple[AgeBand, Limits], ...] = ()
    max_change_per_min: float = INF
    patient_bound: bool = True


_B = AgeBand
_HEART_BY_AGE = (
    (_B.NEONATE, Limits(80, 100, 205, 230)), (_B.INFANT, Limits(80, 100, 180, 220)),
    (_B.TODDLER, Limits(70, 98, 140, 190)), (_B.PRESCHOOL, Limits(60, 80, 120, 170)),
    (_B.SCHOOL, Limits(55, 75, 118, 160)), (_B.ADOLESCENT, Limits(45, 60, 110, 150)),
)  # fmt: skip
_RESP_BY_AGE = (
    (_B.NEONATE, Limits(20, 30, 60, 80)), (_B.INFANT, Limits(15, 30, 53, 70)), (_B.TODDLER, Limits(12, 22, 37, 50)),
    (_B.PRESCHOOL, Limits(12, 20, 28, 40)), (_B.SCHOOL, Limits(10, 18, 25, 35)),
    (_B.ADOLESCENT, Limits(8, 12, 20, 30)),
)  # fmt: skip
_SYS_BY_AGE = (
    (_B.NEONATE, Limits(40, 60, 90, 110)), (_B.INFANT, Limits(50, 70, 105, 125)), (_B.TODDLER, Limits(55, 74, 112, 130)),
    (_B.PRESCHOOL, Limits(60, 78, 115, 135)), (_B.SCHOOL, Limits(65, 84, 124, 145)),
    (_B.ADOLESCENT, Limits(75, 95, 140, 165)),
)  # fmt: skip

LIMIT_PROFILES: Final[tuple[LimitProfile, ...]] = (
    LimitProfile("heart_rate", 5, 2, Limits(40, 50, 120, 140), _HEART_BY_AGE, max_change_per_min=60),
    LimitProfile("pulse_rate", 10, 2, Limits(40, 50, 120, 140), _HEART_BY_AGE),
    LimitProfile("resp_rate", 10, 1, Limits(8, 10, 24, 30), _RESP_BY_AGE),
    LimitProfile("co2_resp_rate", 10, 1, Limits(8, 10, 24, 30), _RESP_BY_AGE),
    LimitProfile("spo2", 15, 1, Limits(85, 90, INF, INF), max_change_per_min=20),
    LimitProfile("sao2", 0, 1, Limits(85, 90, INF, INF)),
    LimitProfile("body_temp", 0, 0.2, Limits(35.0, 36.0, 38.0, 39.0), max_change_per_min=1.0),
    LimitProfile("nibp_sys", 0, 2, Limits(80, 90, 160, 200), _SYS_BY_AGE),
    LimitProfile("nibp_dia", 0, 2, Limits(40, 50, 100, 120)),
    LimitProfile("nibp_mean", 0, 2, Limits(55, 65, 110, 130)),
    LimitProfile("abp_sys", 5, 2, Limits(80, 90, 160, 200), _SYS_BY_AGE, max_change_per_min=60),
    LimitProfile("abp_dia", 5, 2, Limits(40, 50, 100, 120)),
    LimitProfile("abp_mean", 5, 2, Limits(55, 65, 110, 130)),
    LimitProfile("cvp_mean", 10, 1, Limits(-INF, 0, 15, 25)),
    LimitProfile("etco2", 10, 1, Limits(20, 25, 50, 65)),
    LimitProfile("peak_pressure", 5, 1, Limits(-INF, 5, 35, 45)),
    LimitProfile("glucose", 0, 0.2, Limits(2.8, 3.9, 13.9, 22.2)),
    LimitProfile("lactate", 0, 0.2, Limits(-INF, -INF, 2.0, 4.0)),
    LimitProfile("oxygen_supply_pressure", 0, 10, Limits(300, 350, 500, 550), patient_bound=False),
    LimitProfile("air_supply_pressure", 0, 10, Limits(300, 350, 500, 950), patient_bound=False),
    LimitProfile("vacuum_pressure", 0, 2, Limits(-INF, -INF, -40, -20), patient_bound=False),
    LimitProfile("fridge_temp", 300, 0.2, Limits(0, 2, 8, 12), patient_bound=False),
    LimitProfile("smoke", 0, 0, Limits(high=0.5, very_high=0.5), patient_bound=False),
    LimitProfile("tube_temp", 0, 2, Limits(high=90, very_high=120), patient_bound=False),
)


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    limits = np.empty((MAX_ID + 1, len(AgeBand), len(LimitRule)))
    limits[...] = Limits().as_tuple()
    delay_us = np.zeros(MAX_ID + 1, dtype=np.int64)
    hysteresis = np.zeros(MAX_ID + 1)
    change = np.full(MAX_ID + 1, INF)
    for profile in LIMIT_PROFILES:
        metric_id = metric_of(profile.metric).id
        limits[metric_id, :] = profile.adult.as_tuple()
        for band, by_age in profile.by_age:
            limits[metric_id, band] = by_age.as_tuple()
        delay_us[metric_id] = round(profile.delay_s * 1e6)
        hysteresis[metric_id] = profile.hysteresis
        change[metric_id] = profile.max_change_per_min
    return limits, delay_us, hysteresis, change


# LIMITS[metric id, age band, LimitRule], DELAY_US[metric id], HYSTERESIS[metric id], MAX_CHANGE_PER_MIN[metric id]
LIMITS, DELAY_US, HYSTERESIS, MAX_CHANGE_PER_MIN = _tables()


def check_preset(metric: str, limits: Sequence[float | None]) -> None:
    """Raise InvalidInput unless `metric` exists and (very low, low, high, very high) can be limits of it; None is no limit."""
    code = metric_of(metric).code
    given = [limit for limit in limits if limit is not None]
    lows, highs = ([limit for limit in half if limit is not None] for half in (limits[:2], limits[2:]))
    rises = given == sorted(given) and not (lows and highs and lows[-1] >= highs[0])
    if not given or not rises or not all(math.isfinite(limit) for limit in given):
        raise InvalidInput(
            f"limits {list(limits)} of {code} must rise from very low to very high, low below high, with one at least"
        )
