"""What the doors tell of themselves comes through to Prometheus, every figure of it."""

from __future__ import annotations

import re

import msgspec

from api.doors import Doors, watch_doors
from api.telemetry import Telemetry
from gateways.counters import DoorCounters
from runtime.intake_lanes import IntakeCounters
from tests.doors import clock


def test_each_figure_that_is_documented_is_on_the_page_once_doors_have_told() -> None:
    doors, telemetry = Doors(clock()), Telemetry()
    watch_doors(doors, telemetry)
    counters = DoorCounters(held=3)
    for by_word in (counters.connections_refused, counters.connections_ended, counters.rejects):
        by_word["some-word"] = 1
    doors.receive(msgspec.json.encode({"doors": {"mqtt": counters}, "intake": IntakeCounters()}), "doors.counted")
    page = telemetry.text().decode()
    assert re.search(r'^vitalgrid_door_held_total\{door="mqtt"\} 3\.0$', page, re.M)
    of_doors = [figure.name for figure in telemetry.figures if figure.name.startswith(("vitalgrid_door_", "vitalgrid_intake_"))]
    assert [name for name in of_doors if not re.search(rf"^{name}[ {{]", page, re.M)] == []
