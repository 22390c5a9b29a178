"""What a thing model means to a door, made ready once: rules by JSON key, and tables by metric id for columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from domain.metrics import BY_ID, MAX_ID, Group, metric_of
from domain.thing_models import ThingModel

MAX_INSTANCES: Final = 256
MEASURED_IDS: Final = frozenset(metric.id for metric in BY_ID.values() if metric.group is not Group.SCORE)
ANY_INSTANCE: Final = np.zeros(MAX_ID + 2, np.uint16)  # for senders whose model the door does not know
ANY_INSTANCE[list(MEASURED_IDS)] = MAX_INSTANCES


@dataclass(frozen=True, slots=True)
class KeyRule:
    """One JSON key of a model: the metric and instance it stands for, and which values say *nothing measured*."""

    metric_id: int
    metric: str
    unit: str
    instance: int
    sentinels: frozenset[float]
    codes: dict[str, float]  # the names of a coded metric's values; empty for a quantity
    is_coded: bool


class ModelRules:
    """The rules of one model. Scores are derived by the platform alone, so no door knows their keys."""

    def __init__(self, model: ThingModel) -> None:
        self.model = model

    @cached_property
    def keys(self) -> dict[str, KeyRule]:
        rules = {}
        for key, (channel, instance) in self.model.by_key.items():
            metric = metric_of(channel.metric)
            if metric.id in MEASURED_IDS:
                rules[key] = KeyRule(
                    metric.id, metric.code, metric.unit, instance,
                    frozenset(self.model.sentinels_of(metric.id)),
                    {name: float(code) for code, name in metric.codes}, metric.unit == "{code}",
                )  # fmt: skip
        return rules

    @cached_property
    def instances(self) -> NDArray[np.uint16]:
        """[metric id]: how many instances the model has, 0 where it has not the metric; unknown ids land on the last."""
        table = np.zeros(MAX_ID + 2, np.uint16)
        for metric_id in MEASURED_IDS & self.model.by_metric.keys():
            table[metric_id] = self.model.by_metric[metric_id].instances
        return table

    @cached_property
    def sentinels(self) -> NDArray[np.float64]:
        """[metric id, place]: values that mean *nothing measured*, NaN where there are no more."""
        values = {metric_id: self.model.sentinels_of(metric_id) for metric_id in self.model.by_metric}
        table = np.full((MAX_ID + 1, max(map(len, values.values()), default=0)), np.nan)
        for metric_id, row in values.items():
            table[metric_id, : len(row)] = row
        return table


_made: dict[int, ModelRules] = {}  # by identity of the model, which its rules keep alive: hashing a model is slow


def rules_of(model: ThingModel) -> ModelRules:
    """The rules of `model`, made at its first use."""
    rules = _made.get(id(model))
    if rules is None:
        rules = _made[id(model)] = ModelRules(model)
    return rules
