"""What doors note of those they let in, until it is told: each way in which a device comes, and again once in an hour."""

from __future__ import annotations

from typing import Final

from domain.instants import NEVER_US, US_PER_S
from domain.ports import Clock, Sender
from domain.sightings import Sighting, client_words, software_words

_AGAIN_US: Final = 3_600 * US_PER_S
_MOST_WAYS: Final = 8  # of a device at a door that are remembered: who names itself anew each time is told each time
_Key = tuple[int, str]  # a device and a door
_Way = tuple[str, bool, str, tuple[str, ...]]  # address, over TLS, client, credentials


class Sightings:
    """Of one process of doors; grows with the devices that come, and by nothing that they say.

    Two who come by turns as one device are two ways: told when they are new, not at each turn.
    """

    def __init__(self, clock: Clock, *, keeps_words: bool = True) -> None:
        """`keeps_words`: what devices call themselves is told as it is, else product and version alone."""
        self._clock = clock
        self._keeps_words = keeps_words
        self._told: dict[_Key, dict[_Way, int]] = {}  # when
        self._waiting: dict[_Key, Sighting] = {}

    def note(self, sender: Sender, door: str, address: str, client: str, *, over_tls: bool) -> None:
        """A device was let in, or is still there."""
        words = client_words(client) if self._keeps_words else software_words(door, client)
        key, way = (sender.handle, door), (address, over_tls, words, sender.credentials)
        now_us, waiting = self._clock.now_us(), self._waiting.get(key)
        told_us = self._told.get(key, {}).get(way, NEVER_US)
        if (told_us != NEVER_US and now_us - told_us < _AGAIN_US) or (waiting is not None and _way_of(waiting) == way):
            return
        self._waiting[key] = Sighting(sender.handle, door, address, over_tls, way[2], now_us, sender.credentials)

    def take(self, most: int) -> list[Sighting]:
        """The oldest that wait; what could not be told is given back by `again`."""
        taken = [self._waiting.pop(key) for key in list(self._waiting)[:most]]
        for one in taken:
            ways = self._told.setdefault((one.handle, one.door), {})
            ways.pop(_way_of(one), None)
            ways[_way_of(one)] = one.at_us
            if len(ways) > _MOST_WAYS:
                del ways[next(iter(ways))]
        return taken

    def again(self, untold: list[Sighting]) -> None:
        """Keep these, unless there is newer of the same device and door."""
        for one in untold:
            self._told.get((one.handle, one.door), {}).pop(_way_of(one), None)
        newer = self._waiting
        self._waiting = {(one.handle, one.door): one for one in untold} | newer


def _way_of(one: Sighting) -> _Way:
    return one.address, one.over_tls, one.client, one.credentials
