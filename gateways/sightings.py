"""What doors note of those they let in, until it is told: news at once, the same again once in an hour."""

from __future__ import annotations

from typing import Final

from domain.instants import US_PER_S
from domain.ports import Clock, Sender
from domain.sightings import Sighting, client_words

_AGAIN_US: Final = 3_600 * US_PER_S
_Came = tuple[str, bool, str, tuple[str, ...]]  # address, over TLS, client, credentials


class Sightings:
    """Of one process of doors; grows with the devices that come, and by nothing that they say."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[tuple[int, str], tuple[_Came, int]] = {}  # by device and door: as it came, and when
        self._waiting: dict[tuple[int, str], Sighting] = {}

    def note(self, sender: Sender, door: str, address: str, client: str, *, over_tls: bool) -> None:
        """A device was let in, or is still there."""
        key, now_us = (sender.handle, door), self._clock.now_us()
        came, known = (address, over_tls, client, sender.credentials), self._known.get(key)
        if known is not None and known[0] == came and now_us - known[1] < _AGAIN_US:
            return
        self._known[key] = (came, now_us)
        self._waiting[key] = Sighting(
            sender.handle, door, address, over_tls, client_words(client), now_us, sender.credentials
        )  # fmt: skip

    def take(self, most: int) -> list[Sighting]:
        """The oldest that wait; what could not be told is given back by `again`."""
        keys = list(self._waiting)[:most]
        return [self._waiting.pop(key) for key in keys]

    def again(self, untold: list[Sighting]) -> None:
        """Keep these, unless there is newer of the same device and door."""
        newer = self._waiting
        self._waiting = {(one.handle, one.door): one for one in untold} | newer
