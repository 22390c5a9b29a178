"""Scenarios are data: they load, misspellings are refused, overrides keep their type."""

from __future__ import annotations

import msgspec
import pytest

from domain.errors import InvalidInput, NotFound
from scenarios.catalogue import open_scenario, parse_assignments, scenario_names
from scenarios.model import FAULT_KINDS, parse_scenario
from scenarios.verdicts import CLAUSES, METRICS
from sim.faults import KINDS
from tests.source_tree import ROOT

MINIMAL = 'title = "t"\nstory = "s"\ncovers = ["8.1"]\nseed = 1\nduration_s = 10.0\n'


@pytest.mark.parametrize("name", scenario_names())
def test_each_scenario_file_loads_and_says_what_it_covers(name):
    scenario = open_scenario(name)
    assert scenario.title
    assert len(scenario.story.split()) > 20
    assert scenario.covers
    speaking = {clause for expect in scenario.expect for clause in METRICS[expect.metric].clauses}
    assert set(scenario.covers) <= speaking, "a clause is covered only when an expectation speaks for it"


def test_there_are_at_least_six_stories_with_these_names():
    wanted = {"calm-district", "sepsis-cluster", "wan-cut", "device-storm", "clock-skew", "host-kill"}
    assert wanted <= set(scenario_names())


def test_every_scenario_metric_and_fault_is_documented():
    page = (ROOT / "docs" / "scenarios.md").read_text()
    for word in (*scenario_names(), *METRICS, *FAULT_KINDS):
        assert f"`{word}`" in page, f"docs/scenarios.md does not tell of {word}"


def test_the_world_knows_every_fault_but_those_of_the_platform():
    assert set(FAULT_KINDS) - set(KINDS) == {"host-kill"}


def test_clauses_of_figures_are_known():
    assert {clause for info in METRICS.values() for clause in info.clauses} <= set(CLAUSES)


@pytest.mark.parametrize(
    ("text", "named", "offered"),
    [
        ("sede = 2", "sede", "seed"),
        ("[fleet]\ndevice = 3", "fleet.device", "devices"),
        ("[[expect]]\nmetric = 'readings_lost'\nmaximum = 1.0", "expect.0.maximum", "max"),
        ("[[expect]]\nmetric = 'reading_lost'\nmax = 1.0", "reading_lost", "readings_lost"),
        ("[[fault]]\nkind = 'wancut'\nat_s = 1.0", "wancut", "wan-cut"),
        ("[[expect]]\nmetric = 'readings_lost'", "expects nothing", "equals"),
    ],
)
def test_an_unknown_key_is_refused_and_the_valid_ones_are_named(text, named, offered):
    with pytest.raises(InvalidInput) as refused:
        parse_scenario(f"{MINIMAL}{text}\n")
    assert named in str(refused.value)
    assert offered in str(refused.value)


def test_a_fault_outside_the_run_is_refused():
    with pytest.raises(InvalidInput, match="at_s is 99 s: expected 0 to 25 s"):
        parse_scenario(f"{MINIMAL}[[fault]]\nkind = 'wan-cut'\nat_s = 99.0\n")


def test_a_pace_of_movement_that_is_none_is_refused_and_nobody_moves_unasked():
    assert parse_scenario(MINIMAL).movement.pace == 0
    assert parse_scenario(MINIMAL, {"movement.pace": "2"}).movement.pace == 2
    with pytest.raises(InvalidInput, match="is -1: expected 0"):
        parse_scenario(f"{MINIMAL}[movement]\npace = -1.0\n")


def test_overrides_take_the_type_of_their_field():
    scenario = parse_scenario(MINIMAL, {"fleet.devices": "5000", "duration_s": "30", "title": "another one"})
    assert scenario.fleet.devices == 5000
    assert isinstance(scenario.duration_s, float)
    assert scenario.title == "another one"


def test_overrides_reach_into_lists():
    scenario = open_scenario("wan-cut", {"fault.0.for_s": "5", "expect.0.max": "3"})
    assert scenario.fault[0].for_s == 5
    assert scenario.expect[0].max == 3


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("fleet.devices", "many", "expected a value of type whole number"),
        ("fleet.devices", "1.5", "expected a value of type whole number"),
        ("fleet.device", "1", "expected one of .*devices"),
        ("flet.devices", "1", "expected one of .*fleet"),
        ("fault.7.at_s", "1", "is no entry"),
    ],
)
def test_a_wrong_override_is_refused_with_what_was_expected(key, value, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        open_scenario("wan-cut", {key: value})


def test_an_assignment_needs_a_key_and_a_value():
    assert parse_assignments(["fleet.devices=5", "title=a=b"]) == {"fleet.devices": "5", "title": "a=b"}
    with pytest.raises(InvalidInput, match="expected key=value"):
        parse_assignments(["fleet.devices"])


def test_an_unknown_scenario_is_answered_with_those_there_are():
    with pytest.raises(NotFound, match="calm-district"):
        open_scenario("calm")


def test_a_scenario_cannot_be_changed_once_it_is_read():
    scenario = parse_scenario(MINIMAL)
    with pytest.raises(AttributeError):
        scenario.seed = 2
    assert msgspec.convert(msgspec.to_builtins(scenario), type(scenario)) == scenario
