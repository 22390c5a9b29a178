"""The world when nothing fails: the plan's rate, in order, plausible, and the same again for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from domain.ages import AgeBand
from domain.errors import InvalidInput
from domain.metrics import BY_ID, PLAUSIBLE_HIGH, PLAUSIBLE_LOW, Group, metric_of
from domain.readings import ReadingBatch
from domain.thing_catalogue import thing_model
from sim.mix import MODELS
from sim.world import World
from tests.unit.sim.worlds import (
    START_US,
    by_gateway,
    fingerprint,
    hospital_of,
    registered,
    said,
    small_plan,
    world_of,
)

QUIET_S = 120


@pytest.fixture(scope="module")
def quiet():
    """Two minutes of the small district, from the moment that everything is switched on."""
    return list(world_of(birth_s=10.0).emissions(QUIET_S))


@pytest.fixture(scope="module")
def readings(quiet):
    return ReadingBatch.concat(emission.readings for emission in quiet)


def test_the_same_seed_says_the_same_byte_for_byte_and_another_seed_does_not():
    assert fingerprint(said(20)) == fingerprint(said(20))
    assert fingerprint(said(20)) != fingerprint(said(20, seed=6))


@pytest.mark.clause("7.3")
def test_the_rate_is_the_one_that_the_world_states():
    world = world_of()
    made = sum(len(emission.readings) for emission in world.emissions(QUIET_S))
    assert made / QUIET_S == pytest.approx(world.readings_per_s, rel=0.02)


def test_what_is_due_first_comes_first_and_within_the_time_asked_for(quiet):
    due = [emission.due_s for emission in quiet]
    assert due == sorted(due)
    assert due[0] >= 0
    assert due[-1] < QUIET_S


def test_the_sequences_of_a_gateway_run_from_one_without_a_gap(quiet):
    for gateway, own in by_gateway(quiet).items():
        assert own.sequence.tolist() == list(range(1, len(own) + 1)), f"gateway {gateway}"
        assert len(set(own.source.tolist())) == 1


def test_a_reading_happened_when_its_emission_is_due(quiet):
    for emission in quiet:
        assert np.abs(emission.readings.time_us - START_US - emission.due_s * 1e6).max() <= 1


def test_a_device_speaks_through_the_gateway_that_carries_it(quiet):
    plan = small_plan()
    devices, gateways = plan.bind(registered(small_plan().manifest))
    carrier = dict(zip(devices.tolist(), plan.gateway.tolist(), strict=True))
    for emission in quiet:
        assert {carrier[handle] for handle in emission.readings.handle.tolist()} == {emission.gateway}
        assert set(emission.readings.source.tolist()) == {int(gateways[emission.gateway])}


def test_every_device_reports_within_ten_seconds_of_being_switched_on(quiet):
    devices, _ = small_plan().bind(registered(small_plan().manifest))
    heard = {handle for e in quiet if e.due_s < 10 for handle in e.readings.handle.tolist()}
    assert heard == set(devices.tolist())


def test_no_channel_speaks_twice_at_one_time(readings):
    columns = (readings.handle, readings.instance, readings.metric, readings.time_us)
    channels = list(zip(*(column.tolist() for column in columns), strict=True))
    assert len(set(channels)) == len(channels)


def test_healthy_devices_send_valid_and_plausible_values(readings):
    assert not readings.quality.any()
    assert np.isfinite(readings.value).all()
    assert (readings.value >= PLAUSIBLE_LOW[readings.metric, AgeBand.ADULT]).all()
    assert (readings.value <= PLAUSIBLE_HIGH[readings.metric, AgeBand.ADULT]).all()


def test_values_are_whole_steps_of_what_a_chart_shows_and_codes_are_codes(readings):
    for metric_id in np.unique(readings.metric).tolist():
        metric = BY_ID[metric_id]
        values = readings.value[readings.metric == metric_id]
        steps = values / metric.precision
        assert np.abs(steps - np.round(steps)).max() < 1e-3, metric.code
        if metric.codes:
            assert set(values.tolist()) <= {float(code) for code, _ in metric.codes}


def test_a_device_says_only_what_its_model_measures(readings):
    plan = small_plan()
    devices, _ = plan.bind(registered(small_plan().manifest))
    model_of = dict(zip(devices.tolist(), plan.model.tolist(), strict=True))
    for handle, metric, instance in set(
        zip(readings.handle.tolist(), readings.metric.tolist(), readings.instance.tolist(), strict=True)
    ):
        channel = thing_model(MODELS[model_of[handle]]).by_metric[metric]
        assert instance < channel.instances


@pytest.mark.clause("6.1d")
def test_a_hospital_says_vital_signs_infusion_posture_environment_and_equipment_side_by_side(quiet):
    first = ReadingBatch.concat(e.readings for e in quiet if hospital_of(e) == 0)
    groups = {BY_ID[metric].group for metric in set(first.metric.tolist())}
    assert groups >= {Group.VITAL, Group.VENTILATION, Group.INFUSION, Group.ACTIVITY, Group.ENVIRONMENT, Group.EQUIPMENT}


@pytest.mark.clause("6.3d")
def test_each_wearable_gives_a_pulse_every_few_seconds(quiet):
    plan = small_plan()
    devices, _ = plan.bind(registered(small_plan().manifest))
    wearables = devices[plan.model == MODELS.index("wearable")]
    settled = ReadingBatch.concat(e.readings for e in quiet if e.due_s >= 10)
    pulses = settled.take((settled.metric == metric_of("pulse_rate").id) & np.isin(settled.handle, wearables))
    assert len(wearables) > 10
    assert set(pulses.handle.tolist()) == set(wearables.tolist())
    for handle in wearables.tolist():
        own = pulses.time_us[pulses.handle == handle]
        assert np.abs(np.diff(own) - 5_000_000).max() <= 1


def test_a_shorter_beat_says_as_much_in_smaller_parts():
    slow, fast = (list(world_of(tick_s=tick_s).emissions(60)) for tick_s in (1.0, 0.25))
    assert sum(len(e.readings) for e in fast) == pytest.approx(sum(len(e.readings) for e in slow), rel=0.03)
    assert max(len(e.readings) for e in fast) < max(len(e.readings) for e in slow)


def test_a_world_without_handles_says_so():
    with pytest.raises(InvalidInput, match="bind"):
        next(World(small_plan(), 1, START_US).emissions(1))


def test_a_beat_of_no_length_is_refused():
    with pytest.raises(InvalidInput, match="tick"):
        World(small_plan(), 1, START_US, tick_s=0)
