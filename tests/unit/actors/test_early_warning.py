"""NEWS2 over a patient's devices: instants, windows, proxies, missing inputs, bands; not for children and the pregnant."""

from __future__ import annotations

import numpy as np
import pytest

from analytics.news2 import VALIDITY_WINDOWS_S
from domain.alarms import Phase, Priority
from domain.ids import Address
from domain.metrics import metric_of
from domain.quality import Origin, origin_of
from domain.readings import ReadingBatch
from tests.cell_streams import ENTERED, HOSPITAL, TEST_MODE, Desk, admitted, associated, readings, registered

MONITOR, VENTILATOR, PATIENT = 1, 2, 100
CALM = {"resp_rate": 16, "spo2": 97, "nibp_sys": 120, "heart_rate": 70, "body_temp": 37.0}
ENTERED_CALM = {"acvpu": 0, "oxygen_therapy": 0}


def a_desk(**facts: object) -> Desk:
    desk = Desk()
    desk.tell(registered({MONITOR: "monitor@1", VENTILATOR: "ventilator@1"}), admitted(PATIENT, **facts))  # type: ignore[arg-type]
    desk.tell(associated(MONITOR, (PATIENT, -1e6, None)), associated(VENTILATOR, (PATIENT, -1e6, None)))
    return desk


def observe(desk: Desk, at_s: float, **changes: float) -> None:
    """A full set of observations at one event time, and the tick that closes it."""
    for metric, value in {**CALM, **changes}.items():
        desk.read(readings(PATIENT if metric in ENTERED_CALM else MONITOR, metric, [at_s], [value]))
    for metric in ENTERED_CALM.keys() - changes:
        desk.read(readings(PATIENT, metric, [at_s], [ENTERED_CALM[metric]], quality=ENTERED))
    desk.tick(at_s + 2)


def scores(desk: Desk) -> list[tuple[int, float]]:
    derived = ReadingBatch.concat(desk.heard.derived)
    return list(zip(derived.time_us.tolist(), derived.value.tolist(), strict=True))


def news2(desk: Desk) -> list[tuple[str, Phase, Priority]]:
    return [(event.rule, event.phase, event.priority) for event in desk.heard.alarms if event.rule.startswith("news2")]


@pytest.mark.clause("6.3f")
@pytest.mark.clause("6.1d")
def test_readings_of_several_devices_and_entered_ones_make_one_score() -> None:
    desk = a_desk()
    observe(desk, 0)
    assert [value for _, value in scores(desk)] == [0]
    (derived,) = (batch for batch in desk.heard.derived if len(batch))
    assert (derived.handle[0], derived.metric[0], derived.source[0]) == (PATIENT, metric_of("news2").id, 0)
    assert origin_of(derived.quality)[0] == Origin.DERIVED
    assert news2(desk) == []


@pytest.mark.clause("6.3f")
def test_the_alarm_follows_the_band_up_and_down_under_one_id() -> None:
    desk = a_desk()
    observe(desk, 0, resp_rate=25)  # 3
    observe(desk, 60, resp_rate=25, spo2=93)  # 5
    observe(desk, 120, resp_rate=25, spo2=91, body_temp=38.5)  # 7
    observe(desk, 180, resp_rate=21, spo2=92, body_temp=38.5)  # 5
    observe(desk, 240)
    assert news2(desk) == [
        ("news2.single-three", Phase.START, Priority.MEDIUM), ("news2.urgent", Phase.ESCALATE, Priority.MEDIUM),
        ("news2.emergency", Phase.ESCALATE, Priority.HIGH), ("news2.urgent", Phase.DEESCALATE, Priority.MEDIUM),
        ("news2.urgent", Phase.END, Priority.MEDIUM),
    ]  # fmt: skip
    events = [event for event in desk.heard.alarms if event.rule.startswith("news2")]
    assert len({event.alarm_id for event in events}) == 1
    assert [event.value for event in events] == [3, 5, 7, 5, 0]
    assert events[2].text.startswith("NEWS2 7, total of 7 or more: emergency response (resp rate, spo2)")


@pytest.mark.clause("6.3f")
def test_a_missing_input_gives_no_total_and_is_named_while_a_single_three_alarms() -> None:
    desk = a_desk()
    desk.read(readings(MONITOR, "resp_rate", [0], [30]))
    desk.tick(2)
    assert scores(desk) == []
    (event,) = (event for event in desk.heard.alarms if event.rule.startswith("news2"))
    assert (event.rule, event.value) == ("news2.single-three", None)
    assert "missing: spo2, oxygen, systolic, pulse, consciousness, temperature" in event.text
    assert [known.metric for known in event.inputs if known.note == "missing"] == [
        "spo2", "oxygen", "systolic", "pulse", "consciousness", "temperature",
    ]  # fmt: skip
    assert (desk.cell.score_counts.complete, desk.cell.score_counts.partial) == (0, 1)


def test_a_missing_input_is_no_proof_of_recovery() -> None:
    desk = a_desk()
    observe(desk, 0, resp_rate=25, spo2=91, body_temp=38.5)
    hours = max(VALIDITY_WINDOWS_S.values()) + 10
    desk.read(readings(MONITOR, "heart_rate", [hours], [70]))
    desk.tick(hours + 2)
    assert [phase for _, phase, _ in news2(desk)] == [Phase.START]
    observe(desk, hours + 60)
    assert [phase for _, phase, _ in news2(desk)] == [Phase.START, Phase.END]


def test_a_single_three_ends_when_its_parameter_is_seen_with_fewer_points_though_others_are_missing() -> None:
    desk = a_desk()
    for second, rate in ((0, 30), (60, 16)):
        desk.read(readings(MONITOR, "resp_rate", [second], [rate]))
        desk.tick(second + 2)
    assert [phase for _, phase, _ in news2(desk)] == [Phase.START, Phase.END]


def test_a_single_three_stays_while_its_parameter_is_not_seen() -> None:
    desk = a_desk()
    desk.read(readings(MONITOR, "resp_rate", [0], [30]))
    desk.read(readings(MONITOR, "heart_rate", [3_601], [70]))
    desk.tick(3_603)
    assert [phase for _, phase, _ in news2(desk)] == [Phase.START]


def test_all_inputs_of_one_event_time_are_one_instant_and_a_later_one_closes_it() -> None:
    desk = a_desk()
    desk.read(readings(MONITOR, "heart_rate", [0], [70]))
    desk.read(readings(MONITOR, "resp_rate", [0], [30]))
    assert news2(desk) == []  # more of this instant may come
    desk.read(readings(MONITOR, "heart_rate", [1], [70]))
    assert [rule for rule, *_ in news2(desk)] == ["news2.single-three"]
    assert desk.cell.score_counts.partial == 1


def test_an_older_input_changes_no_closed_score_but_counts_from_the_next_one_on() -> None:
    desk = a_desk()
    observe(desk, 0)
    desk.read(readings(VENTILATOR, "fio2", [-5], [40]), arrival_s=3)
    desk.read(readings(PATIENT, "oxygen_therapy", [-1], [1], quality=ENTERED), arrival_s=4)  # older than what is known
    desk.tick(6)
    assert [value for _, value in scores(desk)] == [0]
    observe(desk, 60)
    assert [value for _, value in scores(desk)] == [0, 0]


def test_a_proxy_is_used_where_the_input_itself_is_not_there_and_is_named() -> None:
    desk = a_desk()
    for metric, value in (("resp_rate", 30), ("abp_sys", 120), ("heart_rate", 70), ("body_temp", 37), ("spo2", 97)):
        desk.read(readings(MONITOR, metric, [0], [value]))
    desk.read(readings(VENTILATOR, "fio2", [0], [40]))
    desk.read(readings(PATIENT, "gcs_total", [0], [14], quality=ENTERED))
    desk.tick(2)
    assert [value for _, value in scores(desk)] == [3 + 2 + 3]
    event = next(event for event in desk.heard.alarms if event.rule == "news2.emergency")
    assert {known.metric: known.note for known in event.inputs if known.note} == {
        "fio2": "proxy for oxygen", "gcs_total": "proxy for consciousness",
    }  # fmt: skip


def test_the_arterial_line_is_preferred_to_the_cuff_within_its_hour() -> None:
    desk = a_desk()
    desk.read(readings(MONITOR, "abp_sys", [0], [85]))
    observe(desk, 60)
    assert [value for _, value in scores(desk)] == [3]
    observe(desk, 3_601)
    assert [value for _, value in scores(desk)] == [3, 0]


@pytest.mark.parametrize(("facts", "reason"), [({"age_years": 15.9}, "under 16"), ({"pregnant": True}, "pregnant")])
def test_children_and_the_pregnant_have_no_score_and_the_reason_is_named(facts: dict[str, object], reason: str) -> None:
    desk = a_desk(**facts)
    observe(desk, 0, resp_rate=30)
    assert scores(desk) == []
    assert news2(desk) == []
    assert desk.cell.score_counts.not_computable == 1
    described = desk.cell.describe(Address.parse(f"patient:{HOSPITAL}/p{PATIENT}"))
    assert reason in described["early_warning"]["reason"]


def test_scale_two_is_used_where_it_is_prescribed() -> None:
    desk = a_desk(spo2_scale=2)
    observe(desk, 0, spo2=89, oxygen_therapy=1)
    assert [value for _, value in scores(desk)] == [2]


def test_test_data_feeds_no_score() -> None:
    desk = a_desk()
    desk.read(readings(MONITOR, "resp_rate", [0], [30], quality=TEST_MODE))
    desk.tick(2)
    assert desk.cell.score_counts.partial == 0


def test_a_late_instant_is_scored_and_never_pages() -> None:
    desk = a_desk()
    desk.read(readings(MONITOR, "resp_rate", [0], [30]), arrival_s=500)
    desk.tick(502)
    assert [event.live for event in desk.heard.alarms if event.rule.startswith("news2")] == [False]


def test_what_late_inputs_raised_pages_once_when_a_score_in_time_still_alarms() -> None:
    desk = a_desk()
    desk.read(readings(MONITOR, "resp_rate", [0], [30]), arrival_s=500)
    desk.tick(502)
    for at_s in (560, 620):
        desk.read(readings(MONITOR, "resp_rate", [at_s], [30]))
        desk.tick(at_s + 2)
    assert [(event.phase, event.live) for event in desk.heard.alarms if event.rule == "news2.single-three"] == [
        (Phase.START, False), (Phase.CONTINUE, True),
    ]  # fmt: skip


def test_the_alarm_ends_with_the_patients_discharge() -> None:
    desk = a_desk()
    observe(desk, 0, resp_rate=30)
    desk.tell(admitted(PATIENT, discharged_us=desk.cell.now_us + 5_000_000))
    desk.tick_through(2, 10)
    assert news2(desk)[-1][1] is Phase.END


def test_the_score_is_the_charts_latest_value() -> None:
    desk = a_desk()
    observe(desk, 0, resp_rate=25)
    described = desk.cell.describe(Address.parse(f"device:{HOSPITAL}/chart-p{PATIENT}"))
    value = next(channel["value"] for channel in described["channels"] if channel["metric"] == "news2")
    assert value == 3
    assert np.isclose(desk.cell.describe(Address.parse(f"patient:{HOSPITAL}/p{PATIENT}"))["early_warning"]["total"], 3)
