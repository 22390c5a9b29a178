"""What doors notice of their senders: attempts to be another, messages sent again, one identity at two addresses, floods.

Each is told as a `SecurityNotice` of the true sender: at most once a minute for a sender and kind, with how often it was.
Attempts are an alarm from the third within ten minutes on; one may be a slip of whoever set the device up.

An identity is *in conflict* when it twice within two minutes comes back to an address where it was before: A, B, A, B. A
device that came back by another way is A, B, and perhaps A once more. HTTP requests count, and MQTT connections when they
are made, and when they were heard between two requests. IPv6 addresses of one /64 are one, and addresses behind which there
are many (`shares`) are none. While there is a conflict each CONNECT takes over the older connection as ever, but one from
elsewhere than where the identity was before all this waits `HOLD_S`, one an address and four in all: so a device at a bed is
away for as long as it takes to connect again, and not for longer. Clauses 5.4a, 9.4.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from domain.bounded import keep_newest
from domain.messages import SecurityKind, SecurityNotice
from domain.peers import peer_of
from domain.ports import Clock, Intake, Receipt, Sender
from gateways.paces import PaceLimits, Paces
from gateways.presence import Presence
from gateways.sightings import Sightings

KIND_OF: Final = {
    "unknown-device": SecurityKind.SPOOFING,
    "wrong-source": SecurityKind.SPOOFING,
    "replayed": SecurityKind.REPLAY,
}  # reason of a reject -> what it is told as
HOLD_S: Final = 3.0
WINDOW_S: Final = 120.0
_RETURNS: Final = 2
_CONFLICT_S: Final = 600.0  # since the last turn
_TELL_S: Final = 60.0
_ATTEMPTS_S: Final = 600.0
_MANY: Final = 3
_MOST_HELD: Final = 4
_MOST: Final = 50_000  # senders that are remembered, those of late


@dataclass(slots=True)
class _Attempts:
    since_s: float
    count: int = 0
    untold: int = 0
    told_s: float = float("-inf")


@dataclass(slots=True)
class _Stay:
    """At one address: since when, and when it was used there last."""

    place: str
    came_s: float
    used_s: float


@dataclass(slots=True)
class _Whereabouts:
    """Of one identity. `stays`: those of late, the newest last; `home`: where it was before there was a conflict."""

    stays: deque[_Stay] = field(default_factory=lambda: deque(maxlen=8))
    home: str = ""
    conflict_until_s: float = float("-inf")
    held: set[str] = field(default_factory=set)  # from where a CONNECT waits


class Watch:
    """See module. One for all doors of a process. `connected`: of a handle, the address of its connection, and when it was
    heard last. `sightings`: how senders came, for the inventory. `paces`: how much each may send, any number without `limits`.
    """

    def __init__(
        self, intake: Intake, clock: Clock, shares: Callable[[str], bool] = lambda _address: False, *,
        limits: PaceLimits | None = None,
        keeps_words: bool = True, now_s: Callable[[], float] = lambda: asyncio.get_running_loop().time(),
    ) -> None:  # fmt: skip
        self._clock = clock
        self._shares = shares
        self._now_s = now_s
        self.paces = Paces(self.noticed, limits or PaceLimits(), now_s)
        self._post = Presence(intake, clock)
        self.sightings = Sightings(clock, keeps_words=keeps_words)
        self._is_open = False
        self._attempts: dict[tuple[int, SecurityKind], _Attempts] = {}
        self._whereabouts: dict[int, _Whereabouts] = {}
        self.connected: Callable[[int], tuple[str, float] | None] = lambda _handle: None

    def start(self) -> None:
        """Once there is a loop; again it does nothing."""
        if not self._is_open:
            self._is_open = True
            self._post.start()

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            await self._post.close()

    # ---- what doors say

    def refused(self, sender: Sender, door: str, address: str, reason: str, detail: str) -> None:
        """A message was refused. Most are, for no such cause."""
        kind = KIND_OF.get(reason)
        if kind is not None:
            self.noticed(sender, kind, door, address, detail)

    def stored(self, sender: Sender, door: str, address: str, receipt: Receipt) -> None:
        """A message is in the stream. Of few there is something to tell."""
        if receipt.counts_anew:
            detail = "after a silence it numbers from the beginning again, and states neither a time nor a higher 'boot'"
            self.noticed(sender, SecurityKind.COUNTS_ANEW, door, address, detail)

    def noticed(
        self, sender: Sender, kind: SecurityKind, door: str, address: str, detail: str, *, least: int = _MANY
    ) -> None:  # fmt: skip
        """Tell it, if it is time. `least`: of how many on somebody has to look; 0: nobody has to."""
        now_s = self._now_s()
        seen = self._attempts.get((sender.handle, kind))
        if seen is None or now_s - seen.since_s > _ATTEMPTS_S:
            seen = _Attempts(now_s)
        keep_newest(self._attempts, (sender.handle, kind), seen, _MOST)
        seen.count += 1
        seen.untold += 1
        if seen.count != least and now_s - seen.told_s < _TELL_S:
            return
        notice = SecurityNotice(
            sender.hospital_id, sender.handle, kind, self._clock.now_us(), door, detail, address or None, seen.untold,
            is_alarm=0 < least <= seen.count,
        )  # fmt: skip
        seen.untold, seen.told_s = 0, now_s
        self._post.notify(sender, notice)

    def used(self, sender: Sender, door: str, address: str, before: tuple[str, float] | None = None) -> None:
        """The sender was just believed at this address. `before`: where the connection was that it takes over, and when it was
        heard there last.
        """
        now_s = self._now_s()
        if not address or self._shares(address):
            return
        here = peer_of(address)
        known = self._whereabouts.get(sender.handle) or _Whereabouts()
        keep_newest(self._whereabouts, sender.handle, known, _MOST)
        elsewhere = before or self.connected(sender.handle)
        if elsewhere is not None and elsewhere[0] and not self._shares(elsewhere[0]):
            _stay(known, peer_of(elsewhere[0]), elsewhere[1])
        _stay(known, here, now_s)
        if _is_by_turns(known, now_s):
            places = list(dict.fromkeys(stay.place for stay in known.stays))
            known.conflict_until_s = now_s + _CONFLICT_S
            detail = f"used from {' and '.join(places[:4])} by turns: which of them is the device has to be looked at"
            self.noticed(sender, SecurityKind.IDENTITY_CONFLICT, door, address, detail, least=1)

    @contextlib.contextmanager
    def held(self, sender: Sender, address: str) -> Iterator[float | None]:
        """How long a CONNECT from there is to wait; None: it is refused, because others wait."""
        known = self._whereabouts.get(sender.handle)
        now_s = self._now_s()
        if known is None or now_s >= known.conflict_until_s or not address or peer_of(address) == known.home:
            yield 0.0
        elif (here := peer_of(address)) in known.held or len(known.held) >= _MOST_HELD:
            yield None
        else:
            known.held.add(here)
            try:
                yield HOLD_S
            finally:
                known.held.discard(here)


def _stay(known: _Whereabouts, place: str, at_s: float) -> None:
    """It was used there then. What is older than what is known of other places says nothing new."""
    stays = known.stays
    if stays and stays[-1].place == place:
        stays[-1].used_s = max(stays[-1].used_s, at_s)
    elif not stays or at_s > stays[-1].used_s:
        stays.append(_Stay(place, at_s, at_s))
    while at_s - stays[0].used_s > WINDOW_S:
        stays.popleft()
    if at_s >= known.conflict_until_s and all(stay.place != known.home for stay in stays):
        known.home = stays[0].place  # where it was before is quiet since long


def _is_by_turns(known: _Whereabouts, now_s: float) -> bool:
    """Whether it came back often enough, within the window, to where it had been before."""
    places, returns = set[str](), 0
    for stay in known.stays:
        returns += stay.place in places and now_s - stay.came_s <= WINDOW_S
        places.add(stay.place)
    return returns >= _RETURNS
