"""What goes wrong in a world goes wrong where and when it should, and nothing is lost but what was never measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from domain.errors import InvalidInput
from domain.metrics import BY_ID
from domain.quality import Mark, Validity, has_mark, validity_of
from domain.readings import ReadingBatch
from domain.thing_catalogue import MONITOR_SENTINELS
from sim.faults import KINDS, OF_DEVICES, FaultSpec
from tests.unit.sim.worlds import (
    START_US,
    as_bag,
    by_gateway,
    fingerprint,
    hospital_of,
    of_hospital,
    registered,
    rows_of,
    said,
    small_plan,
    world_of,
)

RUN_S = 60
FIRST, OTHERS = 0, (1, 2, 3)
GATEWAYS_OF_FIRST = sum(gateway.hospital == FIRST for gateway in small_plan().gateways)


def fault(kind, at_s=10.0, for_s=20.0, **fields):
    return FaultSpec(kind, at_s, for_s, **{"hospitals": (FIRST,), **fields})


ONE_OF_EACH = {
    "sepsis": fault("sepsis", magnitude=240.0), "wan-cut": fault("wan-cut"), "power-failure": fault("power-failure"),
    "clock-skew": fault("clock-skew", magnitude=120.0), "network-loss": fault("network-loss", share=0.5),
    "network-duplicate": fault("network-duplicate", share=0.5), "network-delay": fault("network-delay", magnitude=3.0),
    "sensor-stuck": fault("sensor-stuck", share=0.5), "sensor-off": fault("sensor-off", share=0.5),
    "equipment-breakdown": fault("equipment-breakdown", share=0.5),
}  # fmt: skip


@pytest.fixture(scope="module")
def calm():
    return said(RUN_S)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_in_one_hospital_changes_nothing_in_another(calm, kind):
    rough = said(RUN_S, ONE_OF_EACH[kind])
    assert fingerprint(of_hospital(rough, *OTHERS)) == fingerprint(of_hospital(calm, *OTHERS))
    assert fingerprint(of_hospital(rough, FIRST)) != fingerprint(of_hospital(calm, FIRST))


def test_a_second_fault_elsewhere_does_not_shift_the_chance_of_the_first():
    slow = FaultSpec("network-delay", 0, hospitals=(1,), magnitude=2.0)
    alone, beside = said(30, slow), said(30, slow, ONE_OF_EACH["network-loss"])
    assert fingerprint(of_hospital(alone, 1)) == fingerprint(of_hospital(beside, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_fails_in_the_same_way(kind):
    assert fingerprint(said(40, ONE_OF_EACH[kind])) == fingerprint(said(40, ONE_OF_EACH[kind]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sepsis"])
def test_when_a_fault_is_over_it_is_as_if_it_had_never_been(calm, kind):
    """But for the numbers that a gateway without power did not give."""
    after, same = (
        [unnumbered(e) for e in of_hospital(run, FIRST) if e.due_s >= 50] for run in (said(RUN_S, ONE_OF_EACH[kind]), calm)
    )
    assert len(same) > 10
    assert fingerprint(after) == fingerprint(same)


def test_a_hospital_without_power_is_dark_and_then_is_back(calm):
    rough = of_hospital(said(RUN_S, fault("power-failure")), FIRST)
    due = [e.due_s for e in rough]
    assert not [s for s in due if 10 <= s < 30]
    expected = [(e.due_s, e.gateway) for e in of_hospital(calm, FIRST) if not 10 <= e.due_s < 30]
    assert [(e.due_s, e.gateway) for e in rough] == expected
    for own in by_gateway(rough).values():
        assert own.sequence.tolist() == list(range(1, len(own) + 1)), "what was never measured has no number"


@pytest.mark.clause("6.3d")
def test_what_a_cut_line_holds_is_delivered_once_in_order_with_its_own_times_and_marked(calm):
    rough = of_hospital(said(RUN_S, fault("wan-cut")), FIRST)
    assert not [e for e in rough if 10 <= e.due_s < 30]
    expected = by_gateway(of_hospital(calm, FIRST))
    for gateway, own in by_gateway(rough).items():
        is_same = rows_of(own) == rows_of(expected[gateway])
        assert is_same
    for emission in rough:
        waited_s = emission.due_s - (emission.readings.time_us - START_US) / 1e6
        marked = has_mark(emission.readings.quality, Mark.BACKFILL)
        assert marked.tolist() == (waited_s > 5).tolist()
    assert sum(bool(has_mark(e.readings.quality, Mark.BACKFILL).any()) for e in rough) > 10


def test_what_a_line_that_stays_cut_holds_is_never_sent(calm):
    rough = of_hospital(said(RUN_S, fault("wan-cut", for_s=0.0)), FIRST)
    assert fingerprint(rough) == fingerprint([e for e in of_hospital(calm, FIRST) if e.due_s < 10])


def test_two_cuts_one_after_the_other_lose_nothing(calm):
    rough = said(RUN_S, fault("wan-cut", 10, 10), fault("wan-cut", 20.1, 10))
    assert as_bag(rough) == as_bag(calm)


@pytest.mark.parametrize("kind", ["network-loss", "network-delay"])
def test_a_bad_line_delays_and_loses_nothing(calm, kind):
    rough = said(RUN_S, ONE_OF_EACH[kind])
    assert as_bag(rough) == as_bag(calm)
    assert [e.due_s for e in rough] == sorted(e.due_s for e in rough)
    late = [e for e in rough if e.due_s - (e.readings.time_us[0] - START_US) / 1e6 > 0.5]
    assert len(late) > 5
    assert not any(e.retransmission for e in rough)


def test_a_repeated_message_says_that_it_is_one_and_has_the_same_sequences(calm):
    rough = said(RUN_S, ONE_OF_EACH["network-duplicate"])
    once = [e for e in rough if not e.retransmission]
    again = [e for e in rough if e.retransmission]
    assert fingerprint(once) == fingerprint(calm)
    first = {(e.gateway, int(e.readings.sequence[0])): e for e in once}
    affected = [e for e in of_hospital(once, FIRST) if 10 <= e.due_s < 30]
    assert 0.3 * len(affected) < len(again) < 0.7 * len(affected)
    for emission in again:
        original = first[emission.gateway, int(emission.readings.sequence[0])]
        assert rows_of(emission.readings) == rows_of(original.readings)
        assert emission.due_s > original.due_s


@pytest.mark.parametrize("skew_s", [120.0, -30.0])
def test_a_clock_that_is_off_shifts_event_times_and_nothing_else(calm, skew_s):
    rough = said(RUN_S, fault("clock-skew", magnitude=skew_s))
    assert [e.due_s for e in rough] == [e.due_s for e in calm]
    values, true_values = (ReadingBatch.concat(e.readings for e in run).value for run in (rough, calm))
    assert (values == true_values).all()
    for emission, true in zip(rough, calm, strict=True):
        is_off = hospital_of(emission) == FIRST and 10 <= emission.due_s < 30
        assert (emission.readings.time_us - true.readings.time_us == (round(skew_s * 1e6) if is_off else 0)).all()


@pytest.mark.parametrize("kind", ["wan-cut", "power-failure", "clock-skew", "network-delay"])
def test_a_fault_of_half_the_gateways_meets_half_of_them(kind):
    world = world_of(fault(kind, share=0.5, magnitude=3.0))
    assert sum(len(e.readings) for e in world.emissions(RUN_S))
    began = [truth for truth in world.truth if truth.kind == "fault-began"]
    assert GATEWAYS_OF_FIRST > 1
    assert len(began) == round(GATEWAYS_OF_FIRST / 2)


def devices_of_first(said_of):
    """Device -> its readings by channel, of the first hospital's devices on a patient."""
    plan = small_plan()
    handles, _ = plan.bind(registered(plan.manifest))
    readings = ReadingBatch.concat(e.readings for e in of_hospital(said_of, FIRST))
    worn = handles[(plan.hospital == FIRST) & (plan.patient >= 0)]
    return {handle: readings.take(readings.handle == handle) for handle in worn.tolist()}


def during(readings):
    at_s = (readings.time_us - START_US) / 1e6
    return readings.take((at_s >= 11) & (at_s < 30))


def test_a_stuck_sensor_says_one_value_and_then_those_it_would_have_said(calm):
    rough, well = devices_of_first(said(RUN_S, fault("sensor-stuck"))), devices_of_first(calm)
    lively = 0
    for handle, own in rough.items():
        stuck, true = during(own), during(well[handle])
        for metric in set(stuck.metric.tolist()):
            assert len(set(stuck.value[stuck.metric == metric].tolist())) == 1
            lively += len(set(true.value[true.metric == metric].tolist())) > 1
        assert not own.quality.any(), "nothing tells that it is stuck"
    assert lively > 20


def test_a_probe_that_is_off_is_said_by_the_models_own_number_or_as_not_available():
    run = devices_of_first(said(RUN_S, fault("sensor-off")))
    codes = {BY_ID[metric].code: metric for own in run.values() for metric in own.metric.tolist()}
    off = ReadingBatch.concat(during(own) for own in run.values())
    hearts, rates = (off.take(off.metric == codes[code]) for code in ("heart_rate", "infusion_rate"))
    assert set(hearts.value.tolist()) == {MONITOR_SENTINELS[0]}
    assert not hearts.quality.any(), "the platform must know the number"
    assert len(rates) > 10
    assert np.isnan(rates.value).all()
    assert (validity_of(rates.quality) == Validity.NOT_AVAILABLE).all()


def test_broken_equipment_is_silent_and_then_is_back(calm):
    rough, well = (devices_of_first(run) for run in (said(RUN_S, fault("equipment-breakdown", share=0.5)), calm))
    broken = [handle for handle, own in rough.items() if not len(during(own))]
    whole = [handle for handle, own in rough.items() if rows_but_numbers(own) == rows_but_numbers(well[handle])]
    assert len(broken) > 10
    assert len(whole) > 10
    assert all(rough[handle].time_us.max() > START_US + 30e6 for handle in broken if len(well[handle]) > 5)


def rows_but_numbers(readings):
    return list(zip(readings.metric.tolist(), readings.time_us.tolist(), readings.value.tolist(), strict=True))


@pytest.mark.parametrize("kind", OF_DEVICES)
def test_a_fault_of_devices_is_told_of_the_hospital_with_how_many_it_meets(kind):
    world = world_of(fault(kind, share=0.5))
    list(world.emissions(RUN_S))
    count = round(int((small_plan().hospital == FIRST).sum()) / 2)
    facts = [(t.kind, t.at_s, t.subject, t.detail) for t in world.truth if t.kind.startswith("fault")]
    what = f"{kind}, {count} devices"
    assert facts == [("fault-began", 10, "sz.h001", what), ("fault-ended", 30, "sz.h001", what)]


def test_the_world_remembers_what_really_happened():
    world = world_of(fault("wan-cut"))
    list(world.emissions(RUN_S))
    facts = [(t.kind, t.at_s, t.subject, t.detail) for t in world.truth if t.kind.startswith("fault")]
    names = [f"sz.h001/gw-{n + 1:03}" for n in range(GATEWAYS_OF_FIRST)]
    assert facts == [("fault-began", 10, n, "wan-cut") for n in names] + [("fault-ended", 30, n, "wan-cut") for n in names]


def unnumbered(emission):
    return replace(emission, readings=emission.readings.with_columns(sequence=np.zeros(len(emission.readings))))


def test_an_unknown_fault_names_those_that_exist():
    with pytest.raises(InvalidInput, match="earthquake") as refused:
        FaultSpec("earthquake", 0)
    assert all(kind in str(refused.value) for kind in KINDS)


@pytest.mark.parametrize("wrong", [{"share": 1.5}, {"share": -0.1}, {"at_s": -1.0}, {"for_s": -1.0}, {"magnitude": -1.0}])
def test_a_fault_that_cannot_be_is_refused(wrong):
    with pytest.raises(InvalidInput, match="network-delay"):
        FaultSpec(**{"kind": "network-delay", "at_s": 0.0, **wrong})


@pytest.mark.parametrize("hospital", [4, -1])
def test_a_fault_in_a_hospital_that_does_not_exist_is_refused(hospital):
    with pytest.raises(InvalidInput, match="0 to 3"):
        world_of(fault("wan-cut", hospitals=(hospital,)))
