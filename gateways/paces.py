"""How much a sender may send: so many readings at once, then so many a second. What is beyond waits, and is never lost.

A measure is a sender's own, at whichever doors it comes and however often it connects. A message counts as one reading at
least, and a ping, a topic that is subscribed to or left, and a request for a receipt or a certificate as one. Whoever has sent
more is read no further over MQTT (its messages are not acknowledged meanwhile) and answered 429 over HTTP, until enough has
come back. Devices that speak for themselves have less than gateways, which speak for a hospital.

A sender that was held again and again for `TOLD_AFTER_S`, with no pause, is told as a security event (`floods`), once a
minute while it goes on, and as an alarm from the fifth on: a device that brings what it kept in an outage is done before.
Measures are in memory, those of late. Why so: docs/decisions/0042-a-senders-flood-waits-at-the-door.md. Clauses 8.1, 9.1b, 9.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from domain.errors import TooManyReadings
from domain.messages import SecurityKind
from domain.ports import Sender
from gateways.counters import DoorCounters

TOLD_AFTER_S: Final = 5.0
_PAUSE_S: Final = 5.0  # who was within its measure for so long had a pause
_TELL_S: Final = 61.0  # not sooner than what is noticed of a sender is told again
_ALARM_FROM: Final = 5
_MOST: Final = 50_000  # senders that are remembered


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """As `runtime.settings.DoorSettings`. Of 0 readings a second there is no limit."""

    device_readings_a_s: float = 0.0
    gateway_readings_a_s: float = 0.0
    burst_s: float = 120.0


class Pace:
    """One sender's measure. `left`: how many readings may come before anybody has to look at the time; below 0 it waits.

    Doors subtract what came. What came back is added when there is nothing left, so counting costs no look at a clock.
    """

    __slots__ = ("_burst", "_looked_s", "left", "over_since_s", "readings_a_s", "told_s")

    def __init__(self, readings_a_s: float, burst_s: float, now_s: float) -> None:
        self.readings_a_s = readings_a_s
        self._burst = self.left = readings_a_s * burst_s if readings_a_s else math.inf
        self._looked_s = now_s
        self.over_since_s: float | None = None  # since when it was held again and again, with no pause
        self.told_s = -math.inf

    def wait_s(self, now_s: float) -> float:
        """How long it has to wait from now on; 0: it may go on."""
        if self.left >= 0.0:
            return 0.0
        self.left = min(self._burst, self.left + (now_s - self._looked_s) * self.readings_a_s)
        self._looked_s = now_s
        if self.left >= min(_PAUSE_S * self.readings_a_s, self._burst):
            self.over_since_s = None
        return max(0.0, -self.left / self.readings_a_s)

    def is_full(self, now_s: float) -> bool:
        """Whether forgetting it would change nothing."""
        return self.left + (now_s - self._looked_s) * self.readings_a_s >= self._burst


NO_LIMIT: Final = Pace(0.0, 0.0, 0.0)


class Noticed(Protocol):
    """Told that something was noticed of a sender; `least`: of how many times on somebody has to look."""

    def __call__(
        self, sender: Sender, kind: SecurityKind, door: str, address: str, detail: str, *, least: int
    ) -> None: ...  # fmt: skip


class Paces:
    """The measures of all senders, one for all doors of a process. `noticed`: as `gateways.watch.Watch.noticed`."""

    def __init__(self, noticed: Noticed, limits: PaceLimits, now_s: Callable[[], float]) -> None:
        self._noticed = noticed
        self._limits = limits
        self._now_s = now_s
        self._by_handle: dict[int, Pace] = {}

    def of(self, sender: Sender) -> Pace:
        """Its measure, at every door the same one."""
        pace = self._by_handle.get(sender.handle)
        if pace is None:
            limits = self._limits
            readings_a_s = limits.gateway_readings_a_s if sender.model is None else limits.device_readings_a_s
            if not readings_a_s:
                return NO_LIMIT
            if len(self._by_handle) >= _MOST:
                self._forget()
            pace = self._by_handle[sender.handle] = Pace(readings_a_s, limits.burst_s, self._now_s())
        return pace

    def take(self, sender: Sender, readings: int, door: str, address: str, counters: DoorCounters) -> None:
        """Count what came in a request. Raises TooManyReadings while the sender has to wait; then nothing is counted."""
        pace = self.of(sender)
        if pace.left < 0.0 and (wait_s := self._wait_s(pace, sender, door, address, counters)):
            raise TooManyReadings(pace.readings_a_s, wait_s)
        pace.left -= readings

    def holds(self, pace: Pace, sender: Sender, door: str, address: str, counters: DoorCounters) -> bool:
        """Whether a sender that has nothing left is to be read no further now. Asking again is all that tells of a change."""
        return self._wait_s(pace, sender, door, address, counters) > 0.0

    def _wait_s(self, pace: Pace, sender: Sender, door: str, address: str, counters: DoorCounters) -> float:
        now_s = self._now_s()
        wait_s = pace.wait_s(now_s)
        if not wait_s:
            return 0.0
        if pace.over_since_s is None:
            pace.over_since_s = now_s
            counters.held += 1
        over_s = now_s - pace.over_since_s
        if over_s >= TOLD_AFTER_S and now_s - pace.told_s >= _TELL_S:
            pace.told_s = now_s
            detail = (
                f"for {over_s:.0f} s it has been sending more than {pace.readings_a_s:g} readings a second (a ping counts as "
                "one): what is beyond waits; after an outage it may be catching up"
            )
            self._noticed(sender, SecurityKind.FLOODS, door, address, detail, least=_ALARM_FROM)
        return wait_s

    def _forget(self) -> None:
        """Make room: measures that are full say nothing; where all say something, the older half goes."""
        now_s = self._now_s()
        kept = {handle: pace for handle, pace in self._by_handle.items() if not pace.is_full(now_s)}
        for handle in list(kept)[: max(0, len(kept) - _MOST // 2)]:
            del kept[handle]
        self._by_handle = kept
