"""A hospital goes from one shard's cell to another's, and says there what it would have said."""

from __future__ import annotations

import numpy as np
import pytest

from actors.hospital_state import part_of, together
from actors.shard import ShardCell
from domain.messages import DeviceEvent, HandOver, HandOverStep, LimitsPreset, MaintenanceSet
from domain.readings import ReadingBatch
from tests.cell_streams import HOSPITAL, Desk, admitted, assert_same_tables, associated, at, readings, registered

OTHER = "sz.h002"
CUT = HandOver(OTHER, 1, HandOverStep.CUT, 0, 1)
PREPARE = HandOver(OTHER, 1, HandOverStep.PREPARE, 0, 1)
SETTLE = HandOver(OTHER, 1, HandOverStep.SETTLE, 0, 1)


def eventful(shard: int = 0) -> Desk:
    """Two hospitals in one shard, each with devices, a patient, limits, alarms that are on and a window of maintenance."""
    stream = Desk(ShardCell(shard))
    for base, hospital in ((0, HOSPITAL), (100, OTHER)):
        stream.tell(
            registered({base + 1: "monitor@1", base + 2: "monitor@1", base + 3: "gateway@1", base + 4: "pump@1"}, hospital),
            *(_of(hospital, message) for message in (admitted(base + 9), associated(base + 1, (base + 9, -60, None)))),
            LimitsPreset(hospital, base + 9, "heart_rate", (None, 60.0, 100.0, None)),
            MaintenanceSet(hospital, at(500), at(600), ward_id="icu"), at_s=0,
        )  # fmt: skip
    for second in range(1, 40):
        for base in (0, 100):
            stream.read(one(base + 1, "heart_rate", second, 130, sequence=second))
            stream.read(one(base + 2, "spo2", second, 97, sequence=second))
        stream.tick(second)
    for base, hospital in ((0, HOSPITAL), (100, OTHER)):
        stream.tell(DeviceEvent(hospital, base + 1, "lead_off", at(39)), at_s=39)
    return stream


def one(handle: int, metric: str, second: float, value: float, sequence: int = 0) -> ReadingBatch:
    return readings(handle, metric, [second], [value], source=handle, sequence=sequence)


def _of(hospital, message):
    return type(message)(**{**{name: getattr(message, name) for name in message.__struct_fields__}, "hospital_id": hospital})


def goes_on(stream: Desk, from_s: int = 40, until_s: int = 120) -> list[str]:
    """What hospital OTHER says of what follows: silence of one device, a recovery, an event that ends its alarm."""
    said = []
    for second in range(from_s, until_s):
        said += stream.read(one(101, "heart_rate", second, 130 if second < 60 else 80, sequence=second)).alarms
        if second == 70:
            said += stream.tell(DeviceEvent(OTHER, 101, "lead_on", at(70)), at_s=70).alarms
        said += stream.tick(second).alarms
    return [f"{event.event_id} {event.text}" for event in said if event.subject.hospital_id == OTHER]


def test_what_is_cut_apart_and_put_together_is_what_it_was() -> None:
    state = eventful().cell.snapshot()
    again = together(part_of(state, [HOSPITAL]), part_of(state, [OTHER]))
    cell = ShardCell(0)
    cell.restore({**again, "cell": state["cell"], "hand_overs": state["hand_overs"], "score_counts": state["score_counts"]})
    found = cell.snapshot()
    found["scorer"] = found["scorer"].slice(0, state["scorer"].num_rows)  # beyond: channels that were never scored
    assert_same_tables(found, state)


def test_a_hospital_says_in_its_new_shard_what_it_would_have_said_in_the_old_one() -> None:
    stays, gives, takes = eventful(), eventful(), Desk(ShardCell(1))
    takes.tell(registered({501: "monitor@1"}, "sz.h003"), PREPARE, at_s=0)
    takes.tick_through(1, 40)
    effects = gives.tell(CUT, at_s=39.5)
    assert effects.given is not None
    takes.cell.take_over(CUT, effects.given[1], at(39.5))
    expected = goes_on(stays)
    assert len(expected) >= 4, "an alarm that ends, one that begins, one of silence"
    assert goes_on(takes) == expected
    assert goes_on(gives) == []


def test_what_still_comes_by_the_old_shard_is_known_as_anothers_until_it_is_settled() -> None:
    gives = eventful()
    gives.tell(CUT, at_s=40)
    late = one(101, "heart_rate", 41, 80, sequence=41)
    assert gives.read(late).rejected == []
    gives.tell(registered({150: "monitor@1"}, OTHER), at_s=42)  # a device that is registered meanwhile has gone there too
    assert gives.read(one(150, "heart_rate", 43, 80)).rejected == []
    gives.tell(SETTLE, at_s=44)
    assert [reason for _, reason, _ in gives.read(late).rejected] == ["unknown-device"]
    assert gives.cell.hospital_ids() == [HOSPITAL]


def test_a_shard_takes_of_another_only_what_came_from_there() -> None:
    gives, takes = eventful(), Desk(ShardCell(1))
    takes.tell(PREPARE)
    assert takes.cell.hand_overs.sources() == [0]
    handles = np.array([101, 1, 150], np.uint32)
    assert not takes.cell.arrived(handles, 0).any()
    given = gives.tell(CUT, at_s=40).given
    takes.cell.take_over(CUT, given[1], at(40))
    assert takes.cell.arrived(handles, 0).tolist() == [True, False, False]
    assert not takes.cell.arrived(handles, 2).any()
    takes.tell(SETTLE, at_s=41)
    assert takes.cell.hand_overs.sources() == []


def test_a_cut_is_made_once_and_survives_a_restoration() -> None:
    gives = eventful()
    assert gives.tell(CUT, at_s=40).given is not None
    assert gives.tell(CUT, at_s=41).given is None
    again = ShardCell(0)
    again.restore(gives.cell.snapshot())
    assert_same_tables(again.snapshot(), gives.cell.snapshot())
    assert again.apply_control(CUT, at(42)).given is None


@pytest.mark.parametrize("message", [CUT, SETTLE])
def test_what_concerns_other_shards_changes_nothing(message: HandOver) -> None:
    stream = Desk(ShardCell(7))
    stream.tell(registered({101: "monitor@1"}, OTHER))
    assert stream.tell(message, at_s=1).given is None
    assert stream.cell.hospital_ids() == [OTHER]


def test_a_retransmission_from_before_the_cut_is_a_double_behind_it() -> None:
    gives, takes = eventful(), Desk(ShardCell(1))
    given = gives.tell(CUT, at_s=40).given
    takes.cell.take_over(CUT, given[1], at(40))
    again = takes.read(one(101, "heart_rate", 39, 130, sequence=39), arrival_s=41)
    assert again.duplicates == 1
