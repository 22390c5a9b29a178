"""Technical alarms about senders that may be attacked, or attack: what doors noticed (`domain.messages.SecurityNotice`).

One alarm for a device and kind while it goes on; it latches, so that it is shown until somebody has answered it, and is over
once nothing was noticed for ten minutes. Under maintenance nothing is raised: the list of security events has it all the
same. A device that is not here raises nothing: its notice came by a shard that it has left. Clauses 5.4a, 9.4.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa

from actors.alarm_writing import Alarm, about_device, device_scope
from actors.roster import Roster
from domain.alarms import AlarmEvent, AlertType, Phase, Priority
from domain.instants import US_PER_S
from domain.messages import SecurityKind, SecurityNotice

RULE_VERSION: Final = 1
OVER_AFTER_US: Final = 600 * US_PER_S
_TABLE: Final = "security_alarms"
_WORDS: Final = {
    SecurityKind.IDENTITY_CONFLICT: "its identity is used from two addresses",
    SecurityKind.REPLAY: "messages of it were sent again",
    SecurityKind.SPOOFING: "it spoke for others than itself",
    SecurityKind.CLIENT_ID: "it called itself by the client id of others",
    SecurityKind.COUNTS_ANEW: "it began to number its messages again and again",
    SecurityKind.FLOODS: "it sends far too much, and is held at the door",
}


class SecurityAlarms:
    """See module. Holds a row for each device and kind of which an alarm stands."""

    def __init__(self, roster: Roster, live_horizon_us: int) -> None:
        self._roster = roster
        self._live_horizon_us = live_horizon_us
        self._open: dict[tuple[int, SecurityKind], tuple[int, int]] = {}  # (onset, last noticed)

    def hear(self, notice: SecurityNotice, now_us: int) -> list[AlarmEvent]:
        """Take a notice at `now_us`, as the platform's clock has it; what it raises. The same one again raises nothing."""
        device = self._roster.device_row(notice.handle)
        if device < 0 or not notice.is_alarm or self._roster.in_maintenance(np.array([device]), now_us)[0]:
            return []
        at_us, key = min(notice.at_us, now_us), (device, notice.kind)
        if key in self._open:
            onset_us, last_us = self._open[key]
            self._open[key] = (onset_us, max(last_us, at_us))
            return []
        self._open[key] = (at_us, at_us)
        return [self._notice(*key, at_us, Phase.START, now_us, f"{_WORDS[notice.kind]}: {notice.detail}")]

    def tick(self, now_us: int) -> list[AlarmEvent]:
        """What is over at `now_us`."""
        over = sorted(key for key, (_, last_us) in self._open.items() if now_us - last_us >= OVER_AFTER_US)
        return [self._notice(*key, self._open.pop(key)[0], Phase.END, now_us, f"no more: {_WORDS[key[1]]}") for key in over]

    def set_back(self, latest_us: int) -> None:
        """Nothing that was noticed can have been after this; an alarm is known by its onset, which stays."""
        self._open = {key: (onset_us, min(last_us, latest_us)) for key, (onset_us, last_us) in self._open.items()}

    def _notice(self, device: int, kind: SecurityKind, onset_us: int, phase: Phase, now_us: int, says: str) -> AlarmEvent:
        scope, subject = device_scope(self._roster, device), about_device(self._roster, device)
        alarm = Alarm(scope, f"security.{kind}", RULE_VERSION, AlertType.TECHNICAL, subject, onset_us)
        return alarm.notice(
            phase, Priority.MEDIUM, f"Device {self._roster.device_ids[device]}: {says}",
            event_us=onset_us if phase is Phase.START else now_us, arrival_us=now_us, latching=True,
            live=now_us - onset_us <= self._live_horizon_us or phase is Phase.END,
        )  # fmt: skip

    def snapshot(self) -> dict[str, pa.Table]:
        return {
            _TABLE: pa.table({
                "device": pa.array([device for device, _ in self._open], pa.int64()),
                "kind": pa.array([str(kind) for _, kind in self._open], pa.string()),
                "onset_us": pa.array([onset_us for onset_us, _ in self._open.values()], pa.int64()),
                "last_us": pa.array([last_us for _, last_us in self._open.values()], pa.int64()),
            })
        }  # fmt: skip

    def restore(self, tables: dict[str, pa.Table]) -> None:
        """Take the rows of `snapshot`; one of before there were such alarms has none."""
        rows = tables[_TABLE].to_pylist() if _TABLE in tables else []
        self._open = {(row["device"], SecurityKind(row["kind"])): (row["onset_us"], row["last_us"]) for row in rows}
