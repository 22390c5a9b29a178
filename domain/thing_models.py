"""Thing models: what a kind of device measures, how often, and which of its numbers mean *no measurement*.

A model is versioned (`monitor@1`); a device names one when it registers. Sentinels are declared here, by model,
never globally: a monitor's 0 breaths may be apnoea, while this arterial line's 0 means that nothing is connected.
Clauses 5.4b, 6.1d, 8.2b. The models themselves are rows of `domain.thing_catalogue`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Final

from domain.alarms import AlertType, Priority
from domain.errors import InvalidInput, RejectedInput
from domain.metrics import BY_ID, Metric, metric_of

PRESENCE: Final = ("online", "offline", "disconnected")  # said of devices of any kind, by doors and by gateways
_SHOWN_CHARS: Final = 40


class Criticality(IntEnum):
    """What depends on a device, the most critical first; orders overload and technical-alarm priority."""

    VITAL = 0  # a patient's life signs or life support
    THERAPY = 1
    SUPPORT = 2
    FACILITY = 3


class Lane(IntEnum):
    """Who goes first where there is not room for all.

    Little of what a patient depends on (each device says its own), then much of it (a gateway says that of hundreds),
    then what only measures.
    """

    DIRECT = 0
    PRIORITY = 1
    BULK = 2


class Modality(IntEnum):
    """How a channel delivers, which decides when silence means something."""

    CONTINUOUS = 0  # stale after a few missed periods
    INTERMITTENT = 1  # measured now and then (a cuff): stale only after its own long period
    ON_EVENT = 2  # sent on change (a door): never stale


@dataclass(frozen=True, slots=True)
class ChannelModel:
    """One metric of a thing model.

    instances: how many alike (pump channels, probes), numbered from 0; period_s: expected time between readings;
    no_measurement: raw values, in the metric's unit, by which this kind of device says "nothing measured".
    """

    metric: str
    period_s: float = 1.0
    modality: Modality = Modality.CONTINUOUS
    instances: int = 1
    keys: tuple[str, ...] = ()  # further JSON keys that devices of this kind use for the metric
    no_measurement: tuple[float, ...] = ()

    @property
    def stale_after_s(self) -> float:
        """Silence longer than this, on arrival time, is a missing signal; infinite for on-event channels."""
        if self.modality is Modality.ON_EVENT:
            return float("inf")
        return max(3 * self.period_s, 15.0) if self.modality is Modality.CONTINUOUS else 2.5 * self.period_s


@dataclass(frozen=True, slots=True)
class EventModel:
    """One event that a kind of device says.

    priority: of the alarm that it raises; None: it is only remembered. ended_by: the event that says that it is over; a
    condition has one (its name and `_end` unless named otherwise), a happening such as a fall has none.
    """

    name: str
    priority: Priority | None = None
    alert_type: AlertType = AlertType.TECHNICAL
    is_happening: bool = False
    counter: str | None = None

    @property
    def ended_by(self) -> str | None:
        if self.priority is None or self.is_happening:
            return None
        return self.counter or f"{self.name}_end"


@dataclass(frozen=True)
class ThingModel:
    """A kind of device. `patient_bound`: its readings belong to the patient it is associated with."""

    name: str
    version: int
    title_en: str
    title_zh: str
    criticality: Criticality
    channels: tuple[ChannelModel, ...]
    patient_bound: bool = False
    mdc: int | None = None  # IEEE 11073 device type
    events: tuple[EventModel, ...] = ()
    services: tuple[str, ...] = ()
    calibration_interval_days: int | None = None
    no_measurement: tuple[float, ...] = ()  # sentinels of every channel of this model

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @cached_property
    def lane(self) -> Lane:
        """Of what a gateway says of such a device.

        Bulk is what no patient depends on: not life support or therapy, not worn, and no call for help.
        """
        is_vital = self.criticality <= Criticality.THERAPY or self.patient_bound
        calls = any(event.priority is Priority.HIGH for event in self.events)
        return Lane.PRIORITY if is_vital or calls else Lane.BULK

    @property
    def own_lane(self) -> Lane:
        """Of what such a device says over a connection of its own."""
        return Lane.DIRECT if self.lane is Lane.PRIORITY else self.lane

    @cached_property
    def by_key(self) -> dict[str, tuple[ChannelModel, int]]:
        """JSON key -> (channel, instance). `infusion_rate` is instance 0, `infusion_rate.2` the third."""
        keys: dict[str, tuple[ChannelModel, int]] = {}
        for channel in self.channels:
            for key in (channel.metric, *channel.keys):
                keys[key] = (channel, 0)
                keys.update({f"{key}.{i}": (channel, i) for i in range(channel.instances)})
        return keys

    @cached_property
    def by_event(self) -> dict[str, tuple[EventModel, bool]]:
        """Name -> (event, whether the name says that it is over)."""
        ends = {event.ended_by: (event, True) for event in self.events if event.ended_by is not None}
        return {event.name: (event, False) for event in self.events} | ends

    def check_event(self, name: str) -> None:
        """Raise RejectedInput (`unknown-event`) for an event that this kind of device does not say."""
        if name not in self.by_event:
            said = ", ".join(self.by_event) or "none"
            shown = name[:_SHOWN_CHARS]
            raise RejectedInput("unknown-event", f"event {shown!r} is not one of thing model {self.id}, which says {said}")

    @cached_property
    def by_metric(self) -> dict[int, ChannelModel]:
        return {metric_of(channel.metric).id: channel for channel in self.channels}

    def sentinels_of(self, metric_id: int) -> tuple[float, ...]:
        """Values that mean *no measurement* on this metric: the channel's own and the model's."""
        channel = self.by_metric.get(metric_id)
        return () if channel is None else (*channel.no_measurement, *self.no_measurement)

    def metrics(self) -> tuple[Metric, ...]:
        return tuple(BY_ID[metric_id] for metric_id in self.by_metric)


def check_model(model: ThingModel) -> ThingModel:
    """Return `model` when each metric exists and appears once, and each event has one meaning; raises InvalidInput."""
    ids = [metric_of(channel.metric).id for channel in model.channels]
    if len(set(ids)) != len(ids):
        raise InvalidInput(f"thing model {model.id} names a metric twice: use `instances` for several alike")
    names = [name for event in model.events for name in (event.name, event.ended_by) if name is not None]
    if len(set(names)) != len(names) or set(names) & set(PRESENCE):
        raise InvalidInput(f"thing model {model.id} gives an event two meanings: {', '.join(names)}")
    return model
