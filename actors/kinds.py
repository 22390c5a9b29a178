"""The columnar kinds: what one device, channel, patient and hospital remembers, declared once.

A device's channels lie side by side, in the order of its thing model, so the channel of a reading is
`base[device] + offset[model, metric] + instance`: array look-ups for a whole batch.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from actors.columns import Column
from analytics.news2 import SOURCE_METRICS
from domain.ages import AgeBand
from domain.instants import NEVER_US
from domain.metrics import BY_ID, MAX_ID, Group
from domain.thing_catalogue import THING_MODELS, thing_model
from domain.thing_models import Criticality, Modality

FOREVER_US: Final = 2**62
RULES: Final = 5  # the four of `domain.limits.LimitRule`, then rate of change
NOBODY: Final = -1  # a patient row that is none
AMBIGUOUS: Final = -2  # too near a boundary between patients to tell

DEVICE_COLUMNS: Final = (
    Column("handle", np.uint32),
    Column("model", np.int16),
    Column("hospital", np.int32),
    Column("base", np.int32),
    Column("channels", np.int16),
    Column("registered_us", np.int64, NEVER_US, "us"),
    Column("last_arrival_us", np.int64, NEVER_US, "us"),
    Column("last_time_us", np.int64, NEVER_US, "us"),
    Column("last_source", np.uint32),
    Column("highest_sequence", np.uint64),  # as a source: the highest sequence it has sent,
    Column("old_sequence", np.uint64),  # … up to the generation of identities that is old now,
    Column("forgotten_sequence", np.uint64),  # … and up to the one that was forgotten last
    Column("last_event_us", np.int64, NEVER_US, "us"),
    Column("is_offline", np.bool_, False),
    Column("is_isolated", np.bool_, False),  # by order: what it says is refused
    Column("maintenance_from_us", np.int64, NEVER_US, "us"),
    Column("maintenance_until_us", np.int64, NEVER_US, "us"),
    Column("ward_maintenance_from_us", np.int64, NEVER_US, "us"),
    Column("ward_maintenance_until_us", np.int64, NEVER_US, "us"),
    Column("minute", np.int64, -1, "min"),  # stream minute that `received_minute` counts
    Column("received_minute", np.int64),
    Column("received_minute_before", np.int64),
    Column("span_count", np.int32),
    Column("silent_since_us", np.int64, NEVER_US, "us"),
    Column("fault_since_us", np.int64, NEVER_US, "us"),
    Column("fault_priority", np.int8, -1),  # what was notified; -1 before the first notice
    Column("fault_channels", np.uint64),  # bit per channel that the last notice named
    Column("in_outage", np.bool_, False),
    Column("clock_minute", np.int32, -1, "min"),  # as a source: the stream minute that least and greatest are of,
    Column("clock_least_us", np.int64, FOREVER_US, "us"),  # … of arrival less event time
    Column("clock_greatest_us", np.int64, -FOREVER_US, "us"),
    Column("clock_steady", np.int16),  # minutes running that agree,
    Column("clock_steady_us", np.int64, 0, "us"),  # … with this difference,
    Column("clock_steady_from", np.int32, -1, "min"),  # … from this one on
    Column("clock_known", np.int32, -1, "min"),  # the last minute that bore out the clock in force; -1: none yet
    Column("clock_offset_us", np.int64, 0, "us"),  # in force: what to add to its event times,
    Column("clock_uncertainty_us", np.int64, 0, "us"),  # … and how far that may be wrong
    Column("clock_alarm_us", np.int64, NEVER_US, "us"),  # since when the alarm about it stands
)
CHANNEL_COLUMNS: Final = (
    Column("device", np.int32),
    Column("metric", np.uint16),
    Column("instance", np.uint8),
    Column("stale_after_us", np.int64, FOREVER_US, "us"),
    Column("is_vital", np.bool_, False),  # a sign by which a patient counts as monitored
    Column("is_scored", np.bool_, False),  # continuous signs of life: what the detector watches
    Column("per_minute", np.float32, 0.0, "1/min"),  # readings that the thing model promises
    Column("time_us", np.int64, NEVER_US, "us"),  # newest reading: the time that rules go by
    Column("sent_time_us", np.int64, NEVER_US, "us"),  # the same as the device stated it
    Column("value", np.float64, np.nan),
    Column("quality", np.uint16),
    Column("arrival_us", np.int64, NEVER_US, "us"),  # of the last reading of any age
    Column("received", np.uint32),
    Column("was_usable", np.bool_, False),  # ever: a channel that never was is "not in use"
    Column("ruled_time_us", np.int64, NEVER_US, "us"),  # newest reading that fed the rules
    Column("ruled_value", np.float64, np.nan),
    Column("ruled_patient", np.int32, NOBODY),
    Column("anomaly_onset_us", np.int64, NEVER_US, "us"),
)
PATIENT_COLUMNS: Final = (
    Column("handle", np.uint32),
    Column("device", np.int32),  # the patient's chart, a device of its own
    Column("hospital", np.int32),
    Column("band", np.uint8, int(AgeBand.ADULT)),
    Column("age_years", np.float64, np.nan, "a"),
    Column("is_pregnant", np.bool_, False),
    Column("is_scale_2", np.bool_, False),
    Column("admitted_us", np.int64, NEVER_US, "us"),
    Column("discharged_us", np.int64, FOREVER_US, "us"),
    Column("preset_slot", np.int32, -1),
    Column("input_value", np.float64, np.nan, width=len(SOURCE_METRICS)),
    Column("input_time_us", np.int64, NEVER_US, "us", width=len(SOURCE_METRICS)),
    Column("input_quality", np.uint16, width=len(SOURCE_METRICS)),
    Column("instant_us", np.int64, NEVER_US, "us"),  # event time of the newest inputs
    Column("instant_arrival_us", np.int64, NEVER_US, "us"),
    Column("instant_is_late", np.bool_, False),
    Column("instant_is_open", np.bool_, False),
    Column("total", np.float64, np.nan),
    Column("scored_us", np.int64, NEVER_US, "us"),
    Column("alarm_band", np.int8),
    Column("alarm_onset_us", np.int64, NEVER_US, "us"),
    Column("alarm_is_unpaged", np.bool_, False),  # raised, and told of by late inputs alone: nobody was paged
    Column("threes", np.uint8),  # bit per parameter that scored 3 when it was last there
    Column("lost_since_us", np.int64, NEVER_US, "us"),
    Column("lost_is_raised", np.bool_, False),
)
HOSPITAL_COLUMNS: Final = (
    Column("outage_onset_us", np.int64, NEVER_US, "us"),
    Column("outage_members", np.int64),
)

CHART_MODEL: Final = thing_model("patient-chart")
MODEL_NUMBER: Final = {model.id: number for number, model in enumerate(THING_MODELS)}
CHART_NUMBER: Final = MODEL_NUMBER[CHART_MODEL.id]
IS_VITAL_MODEL: Final = np.array([model.criticality is Criticality.VITAL for model in THING_MODELS])
IS_PATIENT_BOUND: Final = np.array([model.patient_bound for model in THING_MODELS])


def _offsets() -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int32]]:
    """offset[model, metric] of its first channel (-1: not there), instances[model, metric], channels[model]."""
    offsets = np.full((len(THING_MODELS), MAX_ID + 1), -1, dtype=np.int32)
    instances = np.zeros((len(THING_MODELS), MAX_ID + 1), dtype=np.uint8)
    counts = np.zeros(len(THING_MODELS), dtype=np.int32)
    for number, model in enumerate(THING_MODELS):
        for metric_id, channel in model.by_metric.items():
            offsets[number, metric_id], instances[number, metric_id] = counts[number], channel.instances
            counts[number] += channel.instances
    return offsets, instances, counts


OFFSETS, INSTANCES, CHANNEL_COUNTS = _offsets()


def _template(number: int) -> dict[str, NDArray[Any]]:
    model = THING_MODELS[number]
    is_chart = number == CHART_NUMBER
    rows = [
        (
            metric_id,
            instance,
            FOREVER_US if is_chart else int(min(channel.stale_after_s * 1e6, FOREVER_US)),  # people write when they can
            model.patient_bound and not is_chart and BY_ID[metric_id].group is Group.VITAL,
            model.criticality is Criticality.VITAL and channel.modality is Modality.CONTINUOUS,
            0.0 if channel.modality is Modality.ON_EVENT or is_chart else 60.0 / channel.period_s,
        )
        for metric_id, channel in model.by_metric.items()
        for instance in range(channel.instances)
    ]
    names = ("metric", "instance", "stale_after_us", "is_vital", "is_scored", "per_minute")
    return {name: np.array([row[at] for row in rows]) for at, name in enumerate(names)}


# by model: the columns of its channels that registration fills in, in the order in which they lie side by side
CHANNEL_TEMPLATES: Final = tuple(_template(number) for number in range(len(THING_MODELS)))
