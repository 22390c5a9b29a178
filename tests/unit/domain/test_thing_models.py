"""Thing models: the kinds of device, their channels, and what their numbers do not mean."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from domain.alarms import Priority
from domain.errors import InvalidInput, NotFound
from domain.metrics import BY_CODE, metric_of
from domain.thing_catalogue import BY_MODEL_ID, LATEST, THING_MODELS, thing_model
from domain.thing_models import ChannelModel, Criticality, EventModel, Lane, Modality, ThingModel, check_model

every_model = pytest.mark.parametrize("model", THING_MODELS, ids=lambda model: model.id)


@pytest.mark.clause("5.4b")
def test_the_kinds_a_hospital_has_are_there():
    wanted = {"monitor", "ventilator", "infusion-pump", "wearable", "bp-cuff", "gas-pressure", "fridge", "ct"}
    assert wanted <= set(LATEST)
    assert len(BY_MODEL_ID) == len(THING_MODELS) >= 8


@pytest.mark.clause("7.3")
def test_what_a_patient_depends_on_is_never_bulk():
    bulk = {model.name for model in THING_MODELS if model.lane is Lane.BULK and model.channels}
    assert bulk == {"gas-pressure", "fridge", "ct", "room-sensor"}
    caller = ThingModel("button", 1, "Call", "呼叫", Criticality.FACILITY, (), events=(EventModel("sos", Priority.HIGH),))
    assert (caller.lane, caller.own_lane) == (Lane.PRIORITY, Lane.DIRECT)
    assert {LATEST[name].own_lane for name in bulk} == {Lane.BULK}


@every_model
def test_a_model_is_well_formed(model):
    assert re.fullmatch(r"[a-z][a-z0-9-]*", model.name)
    assert model.version >= 1
    assert isinstance(model.criticality, Criticality)
    assert model.title_en.isascii()
    assert re.search(r"[\u4e00-\u9fff]", model.title_zh)


@every_model
def test_its_channels_are_metrics_each_named_once(model):
    metrics = [channel.metric for channel in model.channels]
    assert set(metrics) <= set(BY_CODE)
    assert len(set(metrics)) == len(metrics)
    assert [metric.code for metric in model.metrics()] == metrics


@every_model
def test_a_key_means_one_channel(model):
    keys = Counter(key for channel in model.channels for key in {channel.metric, *channel.keys})
    assert [key for key, count in keys.items() if count > 1] == []


@every_model
def test_each_instance_has_a_key(model):
    for channel in model.channels:
        assert 1 <= channel.instances <= 255
        for instance in range(channel.instances):
            assert model.by_key[f"{channel.metric}.{instance}"] == (channel, instance)
        assert model.by_key[channel.metric] == (channel, 0)
        assert f"{channel.metric}.{channel.instances}" not in model.by_key


@every_model
def test_silence_is_judged_only_after_more_than_one_period(model):
    for channel in model.channels:
        assert channel.period_s > 0
        assert channel.stale_after_s > channel.period_s
        assert (channel.stale_after_s == float("inf")) == (channel.modality is Modality.ON_EVENT)


def test_a_cuff_is_given_its_own_long_period():
    cuff = thing_model("bp-cuff").by_metric[metric_of("nibp_sys").id]
    assert cuff.modality is Modality.INTERMITTENT
    assert cuff.stale_after_s > 1800


def test_a_silent_monitor_is_stale_within_seconds():
    assert thing_model("monitor").by_metric[metric_of("heart_rate").id].stale_after_s <= 15


@pytest.mark.clause("6.3f")
def test_zero_breaths_are_apnoea_on_a_monitor_and_nothing_measured_on_the_recorder_that_says_so():
    resp = metric_of("resp_rate").id
    assert 0.0 not in thing_model("monitor").sentinels_of(resp)
    assert 0.0 in thing_model("monitor-mimic2").sentinels_of(resp)


def test_sentinels_are_those_of_the_channel_and_of_the_model():
    channel = ChannelModel("spo2", no_measurement=(0.0,))
    model = ThingModel("x", 1, "X", "某", Criticality.VITAL, (channel, ChannelModel("heart_rate")), no_measurement=(-1.0,))
    assert model.sentinels_of(metric_of("spo2").id) == (0.0, -1.0)
    assert model.sentinels_of(metric_of("heart_rate").id) == (-1.0,)
    assert model.sentinels_of(metric_of("fridge_temp").id) == ()


def test_what_keeps_a_patient_alive_comes_first():
    assert thing_model("monitor").criticality < thing_model("infusion-pump").criticality
    assert thing_model("infusion-pump").criticality < thing_model("fridge").criticality
    assert [thing_model(name).patient_bound for name in ("monitor", "fridge")] == [True, False]


def test_a_model_is_found_by_name_or_by_name_and_version():
    assert thing_model("monitor") is thing_model("monitor@1")
    with pytest.raises(NotFound, match=r"'toaster'.*monitor"):
        thing_model("toaster")


def test_a_model_with_a_metric_twice_or_unknown_is_refused():
    twice = ThingModel("x", 1, "X", "某", Criticality.VITAL, (ChannelModel("spo2"), ChannelModel("spo2")))
    with pytest.raises(InvalidInput, match="twice"):
        check_model(twice)
    with pytest.raises(InvalidInput, match="no_such"):
        check_model(ThingModel("x", 1, "X", "某", Criticality.VITAL, (ChannelModel("no_such"),)))


def test_a_condition_has_an_event_that_ends_it_and_a_happening_has_none():
    monitor, wearable = thing_model("monitor"), thing_model("wearable")
    assert monitor.by_event["lead_on"] == (monitor.by_event["lead_off"][0], True)
    assert monitor.by_event["alarm"][0].ended_by == "alarm_end"
    assert wearable.by_event["fall"][0].ended_by is None


@pytest.mark.parametrize("events", [
    (EventModel("a", Priority.LOW), EventModel("a_end")),
    (EventModel("a"), EventModel("a")),
    (EventModel("offline"),),
])  # fmt: skip
def test_a_model_whose_events_have_two_meanings_is_refused(events):
    with pytest.raises(InvalidInput, match="two meanings"):
        check_model(ThingModel("x", 1, "X", "某", Criticality.VITAL, (), events=events))
