"""Alarms that devices say themselves, by events of their thing models. Clauses 6.2c, 9.2c.

- A condition (`lead_off`) is one alarm while it lasts: it starts when the device says so and ends when the device says
  that it is over (`lead_on`). Said again meanwhile it is the same alarm.
- A happening (`fall`) starts and ends at once, and latches: it is shown until somebody has answered it.
- Under maintenance nothing is raised, and what was raised ends. A condition that outlasts the window is raised when it is
  over, as an alarm of its own. Events of test and demo data raise nothing.
- Events may come twice and in any order: one that says nothing newer than what is known is passed over. The id is that of
  device, event and onset, and late ones carry their age and do not page. A condition that was told late and lasts pages
  once its device has measured something in time and not said that it is over: as continuing.

The device's own text stays with the event: it may hold anything, and alarms are shown to many.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import pyarrow as pa

from actors.alarm_writing import Alarm, about_device, device_scope
from actors.associations import Associations
from actors.roster import Roster
from domain.alarms import AlarmEvent, Phase, Priority
from domain.instants import NEVER_US
from domain.messages import DeviceEvent
from domain.quality import Mode
from domain.thing_models import EventModel

RULE_VERSION: Final = 1
_TABLE: Final = "device_conditions"


@dataclass(slots=True)
class _Condition:
    """One event of one device. `since_us`: NEVER_US while it is not so; `onset_us`: of its alarm, NEVER_US without one."""

    since_us: int = NEVER_US
    onset_us: int = NEVER_US
    ended_us: int = NEVER_US  # newest end, or newest happening
    is_live: bool = True


class DeviceAlarms:
    """See module. Holds a row for each event of each device that ever said one; ticks look at those that last."""

    def __init__(self, roster: Roster, associations: Associations, live_horizon_us: int) -> None:
        self._roster = roster
        self._associations = associations
        self._live_horizon_us = live_horizon_us
        self._known: dict[tuple[int, str], _Condition] = {}
        self._lasting: set[tuple[int, str]] = set()

    def hear(self, device: int, message: DeviceEvent, now_us: int) -> list[AlarmEvent]:
        """Take an event of a device at `now_us`, as the platform's clock has it; what it raises or ends."""
        event, is_end = self._roster.model_of(device).by_event.get(message.event, (None, False))
        if event is None or event.priority is None or message.mode is not Mode.REAL:
            return []
        condition = self._known.setdefault((device, event.name), _Condition())
        at_us = min(message.at_us, now_us)
        if at_us <= condition.ended_us:
            return []  # over before, whatever it says
        if is_end:
            return self._end(device, event, condition, at_us, now_us)
        if condition.since_us != NEVER_US:
            return []
        if event.is_happening:
            return self._happen(device, event, condition, at_us, now_us)
        condition.since_us = at_us
        self._lasting.add((device, event.name))
        return self._raise(device, event, condition, at_us, now_us)

    def set_back(self, latest_us: int) -> None:
        """Nothing that was said can have happened after this; an alarm is known by its onset, which stays."""
        for condition in self._known.values():
            condition.since_us, condition.ended_us = min(condition.since_us, latest_us), min(condition.ended_us, latest_us)

    def settle(self, now_us: int) -> list[AlarmEvent]:
        """End what maintenance ends, raise what outlasted it, and page for what was told late and still lasts."""
        if not self._lasting:
            return []
        keys, events = sorted(self._lasting), []
        is_quiet = self._roster.in_maintenance(np.array([device for device, _ in keys]), now_us)
        is_raised = np.array([self._known[key].onset_us != NEVER_US for key in keys])
        for number in np.flatnonzero(is_quiet == is_raised).tolist():
            device, name = keys[number]
            condition = self._known[device, name]
            event, _ = self._roster.model_of(device).by_event[name]
            if is_quiet[number]:
                events.append(self._notice(device, event, condition, Phase.END, now_us, now_us, " (under maintenance)"))
                condition.onset_us = NEVER_US
            else:
                events += self._raise(device, event, condition, now_us, now_us)
        return events + [notice for key in keys for notice in self._page(*key, now_us)]

    def _page(self, device: int, name: str, now_us: int) -> list[AlarmEvent]:
        """Tell once more, live, of a condition that was told late, when its device has come to the present without its end."""
        condition = self._known[device, name]
        heard_us = int(self._roster.devices["last_time_us"][device])
        is_now = heard_us > condition.since_us and now_us - heard_us <= self._live_horizon_us
        if condition.is_live or condition.onset_us == NEVER_US or not is_now:
            return []
        condition.is_live = True
        event, _ = self._roster.model_of(device).by_event[name]
        return [self._notice(device, event, condition, Phase.CONTINUE, now_us, now_us, " goes on")]

    def _raise(self, device: int, event: EventModel, condition: _Condition, at_us: int, now_us: int) -> list[AlarmEvent]:
        if self._is_quiet(device, now_us):
            return []
        condition.onset_us, condition.is_live = at_us, now_us - at_us <= self._live_horizon_us
        return [self._notice(device, event, condition, Phase.START, at_us, now_us)]

    def _end(self, device: int, event: EventModel, condition: _Condition, at_us: int, now_us: int) -> list[AlarmEvent]:
        if at_us < condition.since_us:
            return []  # the end of an earlier one
        events = []
        if condition.onset_us != NEVER_US:
            at_us = max(at_us, condition.onset_us)
            events = [self._notice(device, event, condition, Phase.END, at_us, now_us, " is over")]
        condition.since_us = condition.onset_us = NEVER_US
        condition.ended_us = at_us
        self._lasting.discard((device, event.name))
        return events

    def _happen(self, device: int, event: EventModel, condition: _Condition, at_us: int, now_us: int) -> list[AlarmEvent]:
        events = self._raise(device, event, condition, at_us, now_us)
        if events:
            events.append(self._notice(device, event, condition, Phase.END, at_us, now_us))
        condition.onset_us, condition.ended_us = NEVER_US, at_us
        return events

    def _is_quiet(self, device: int, now_us: int) -> bool:
        return bool(self._roster.in_maintenance(np.array([device]), now_us)[0])

    def _notice(
        self, device: int, event: EventModel, condition: _Condition, phase: Phase, event_us: int, now_us: int, how: str = ""
    ) -> AlarmEvent:
        assert event.priority is not None
        words = event.name.replace("_", " ")
        subject = about_device(self._roster, device, self._associations.patient_of(device, condition.onset_us))
        rule = f"device.{event.name.replace('_', '-')}"
        alarm = Alarm(device_scope(self._roster, device), rule, RULE_VERSION, event.alert_type, subject, condition.onset_us)
        return alarm.notice(
            phase, event.priority, f"Device {self._roster.device_ids[device]}: {words}{how}", event_us=event_us,
            arrival_us=now_us, latching=event.is_happening or event.priority is Priority.HIGH, live=condition.is_live,
        )  # fmt: skip

    def snapshot(self) -> dict[str, pa.Table]:
        keys, conditions = list(self._known), list(self._known.values())
        columns = {field.name: [getattr(condition, field.name) for condition in conditions] for field in fields(_Condition)}
        return {
            _TABLE: pa.table({
                "device": pa.array([device for device, _ in keys], pa.int64()),
                "event": pa.array([name for _, name in keys], pa.string()),
                **{name: pa.array(values, pa.bool_() if name == "is_live" else pa.int64()) for name, values in columns.items()},
            })
        }  # fmt: skip

    def restore(self, tables: dict[str, pa.Table]) -> None:
        """Take the rows of `snapshot`; one of before there were such alarms has none."""
        rows = tables[_TABLE].to_pylist() if _TABLE in tables else []
        self._known = {(row.pop("device"), row.pop("event")): _Condition(**row) for row in rows}
        self._lasting = {key for key, condition in self._known.items() if condition.since_us != NEVER_US}
