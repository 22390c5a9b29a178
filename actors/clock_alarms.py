"""Senders whose clock is off: one technical alarm of low priority each, so that somebody sets the clock. Clause 6.2c.

Readings of such a sender are corrected (`source_clocks`), so nobody is in danger; but what a bedside device prints and
stores by itself bears the wrong time. Judged at ticks by the offset in force; not under maintenance.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from actors.alarm_writing import Alarm, about_device, device_scope
from actors.roster import Roster
from domain.alarms import AlarmEvent, AlertType, Phase, Priority
from domain.instants import NEVER_US
from domain.quality import SKEWED_US

RULE: Final = "technical.clock-off"
RULE_VERSION: Final = 1


class ClockAlarms:
    """Keeps its state in the roster's device column `clock_alarm_us`."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def tick(self, now_us: int, clock_us: int) -> list[AlarmEvent]:
        """Whose clock is off, or right again, at stream time `now_us`, when the platform's clock says `clock_us`."""
        table = self._roster.devices
        is_off, since = np.abs(table["clock_offset_us"]) > SKEWED_US, table["clock_alarm_us"]
        if not is_off.any() and (since == NEVER_US).all():
            return []
        is_off &= ~self._roster.in_maintenance(np.arange(len(table)), clock_us)
        due, over = np.flatnonzero(is_off & (since == NEVER_US)), np.flatnonzero(~is_off & (since != NEVER_US))
        since[due] = now_us
        events = [self._notice(device, Phase.START, now_us) for device in due.tolist()]
        events += [self._notice(device, Phase.END, now_us) for device in over.tolist()]
        since[over] = NEVER_US
        return events

    def _notice(self, device: int, phase: Phase, now_us: int) -> AlarmEvent:
        roster = self._roster
        row, name = roster.devices.view(device), roster.device_ids[device]
        way = "ahead" if row.clock_offset_us < 0 else "behind"
        text = f"The clock of {name} is {abs(row.clock_offset_us) / 1e6:.0f} s {way}; its readings are corrected"
        if phase is Phase.END:
            is_right = abs(row.clock_offset_us) <= SKEWED_US
            text = f"The clock of {name} is right again" if is_right else f"{name} is under maintenance"
        scope, subject = device_scope(roster, device), about_device(roster, device)
        return Alarm(scope, RULE, RULE_VERSION, AlertType.TECHNICAL, subject, row.clock_alarm_us).notice(
            phase, Priority.LOW, text, event_us=now_us, arrival_us=now_us
        )
