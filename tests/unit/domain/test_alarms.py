"""The life of an alarm: only what the table allows, closed is final, and nothing worse is ever hidden."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from domain.alarms import (
    INTENDED_USE,
    OPEN_STATES,
    TRANSITIONS,
    AlarmEvent,
    AlarmInput,
    AlarmState,
    AlarmSubject,
    AlertType,
    KnownInput,
    Phase,
    Priority,
    alarm_id_of,
    event_id_of,
    next_state,
)

# golden: which inputs each state takes; everything else is refused
ALLOWED = {
    AlarmState.ACTIVE: "escalated ended ended-non-latching acknowledge pause-audio",
    AlarmState.ACKNOWLEDGED: "escalated ended ended-non-latching acknowledge",
    AlarmState.AUDIO_PAUSED: "escalated ended ended-non-latching acknowledge pause-audio pause-expired",
    AlarmState.LATCHED: "acknowledge",
    AlarmState.CLOSED: "",
}


@pytest.mark.clause("9.2c")
@pytest.mark.parametrize("state", AlarmState)
@pytest.mark.parametrize("happened", AlarmInput)
def test_every_pair_of_state_and_input_leads_somewhere_or_is_refused(state, happened):
    after = next_state(state, happened)
    assert (after is not None) == (happened in ALLOWED[state].split())


def test_closed_is_final():
    assert [happened for state, happened in TRANSITIONS if state is AlarmState.CLOSED] == []
    assert set(AlarmState) - {AlarmState.CLOSED} == OPEN_STATES


def test_every_state_can_be_reached_and_every_open_one_left_to_closed():
    reached = {AlarmState.ACTIVE}
    while more := {after for (state, _), after in TRANSITIONS.items() if state in reached} - reached:
        reached |= more
    assert reached == set(AlarmState)
    closing = {AlarmState.CLOSED}
    while more := {state for (state, _), after in TRANSITIONS.items() if after in closing} - closing:
        closing |= more
    assert closing == set(AlarmState)


@pytest.mark.parametrize("state", [AlarmState.ACTIVE, AlarmState.ACKNOWLEDGED, AlarmState.AUDIO_PAUSED])
def test_escalation_re_opens_whatever_was_answered(state):
    assert next_state(state, AlarmInput.ESCALATED) is AlarmState.ACTIVE


@pytest.mark.parametrize("state", [AlarmState.ACTIVE, AlarmState.AUDIO_PAUSED])
def test_a_latching_alarm_nobody_answered_stays_on_the_screen_when_its_condition_ends(state):
    assert next_state(state, AlarmInput.ENDED) is AlarmState.LATCHED


@pytest.mark.parametrize("state", [AlarmState.LATCHED, AlarmState.CLOSED])
def test_sound_is_paused_only_while_the_condition_is_there(state):
    assert next_state(state, AlarmInput.PAUSE_AUDIO) is None


class AlarmLife(RuleBasedStateMachine):
    """The table against plain words: is the condition there, has a person answered, is the sound paused, latching."""

    def __init__(self) -> None:
        super().__init__()
        self.state = AlarmState.ACTIVE
        self.present, self.answered, self.paused = True, False, False

    @rule(happened=st.sampled_from(AlarmInput))
    def something_happens(self, happened: AlarmInput) -> None:
        after = next_state(self.state, happened)
        allowed = self.allows(happened)
        assert (after is not None) == allowed, f"{self.state} and {happened}"
        if after is not None:
            self.state = after
            self.follow(happened)

    def allows(self, happened: AlarmInput) -> bool:
        if self.closed:
            return False
        match happened:
            case AlarmInput.ACKNOWLEDGE:
                return True
            case AlarmInput.PAUSE_AUDIO:
                return self.present and not self.answered
            case AlarmInput.PAUSE_EXPIRED:
                return self.present and self.paused
            case _:
                return self.present

    def follow(self, happened: AlarmInput) -> None:
        match happened:
            case AlarmInput.ESCALATED:
                self.answered = self.paused = False
            case AlarmInput.ENDED:
                self.present = self.paused = False
            case AlarmInput.ENDED_NON_LATCHING:
                self.present, self.answered, self.paused = False, True, False
            case AlarmInput.ACKNOWLEDGE:
                self.answered, self.paused = True, False
            case AlarmInput.PAUSE_AUDIO:
                self.paused = True
            case AlarmInput.PAUSE_EXPIRED:
                self.paused = False

    @property
    def closed(self) -> bool:
        return not self.present and self.answered

    @precondition(lambda self: self.closed)
    @rule()
    def another_alarm_begins(self) -> None:
        self.__init__()

    @invariant()
    def the_state_says_what_is_the_case(self) -> None:
        if self.closed:
            expected = AlarmState.CLOSED
        elif not self.present:
            expected = AlarmState.LATCHED
        elif self.answered:
            expected = AlarmState.ACKNOWLEDGED
        else:
            expected = AlarmState.AUDIO_PAUSED if self.paused else AlarmState.ACTIVE
        assert self.state is expected


TestAlarmLife = AlarmLife.TestCase


def test_ids_depend_on_what_the_alarm_is_and_on_nothing_else():
    base = ("device:sz.h1/m-1/heart_rate/0", "limit.high", 1, 1_700_000_000_000_000)
    alarm = alarm_id_of(*base)
    assert alarm == alarm_id_of(*base)
    others = {alarm_id_of("device:sz.h1/m-2/heart_rate/0", *base[1:]), alarm_id_of(base[0], "limit.low", *base[2:]),
              alarm_id_of(*base[:2], 2, base[3]), alarm_id_of(*base[:3], base[3] + 1)}  # fmt: skip
    assert len(others | {alarm}) == 5
    assert event_id_of(alarm, Phase.START, 1) != event_id_of(alarm, Phase.END, 1) != event_id_of(alarm, Phase.END, 2)


def test_the_more_urgent_priority_is_the_greater():
    assert max(Priority) is Priority.HIGH
    assert sorted(Priority) == [Priority.INFORMATION, Priority.LOW, Priority.MEDIUM, Priority.HIGH]


def test_an_event_survives_the_wire():
    event = AlarmEvent(
        event_id="e", alarm_id="a", phase=Phase.START, alert_type=AlertType.PHYSIOLOGICAL, priority=Priority.HIGH,
        rule="limit.high", rule_version=1, subject=AlarmSubject("sz.h1", device_id="m-1", handle=3), onset_us=1, event_us=2,
        arrival_us=3, text="Heart rate 150 /min above 140 /min", value=150.0, limit=140.0, unit="/min",
        inputs=(KnownInput("heart_rate", 150.0, 2, 0.5, 0),), members=("m-1",),
    )  # fmt: skip
    assert msgspec.json.decode(msgspec.json.encode(event), type=AlarmEvent) == event


def test_the_intended_use_says_that_the_bedside_stays_primary():
    assert "bedside stay primary" in INTENDED_USE
