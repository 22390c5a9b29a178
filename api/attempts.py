"""How often an address may fail to sign in, before a password is hashed for it. Clause 7.2a."""

from __future__ import annotations

from typing import Final

from domain.errors import TooManyAttempts
from domain.ports import Clock

BURST: Final = 20
REFILL_US: Final = 3_000_000
MOST_ADDRESSES: Final = 10_000


class Attempts:
    """A bucket for each address: each attempt takes one of BURST, one comes back in REFILL_US, and those that were right.

    So who knows the password is not slowed, behind a shared address too, and who guesses is slowed before it costs much.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._full_at_us: dict[str, int] = {}  # when all will have come back; the oldest first

    def take(self, address: str) -> None:
        """Raises TooManyAttempts when there is none left."""
        now_us = self._clock.now_us()
        full_at_us = max(now_us, self._full_at_us.get(address, 0)) + REFILL_US
        if full_at_us - now_us > BURST * REFILL_US:
            raise TooManyAttempts("too many sign-ins from this address failed: wait some seconds, then try again")
        self._put(address, full_at_us)

    def give_back(self, address: str) -> None:
        """The attempt was right."""
        self._put(address, self._full_at_us.get(address, 0) - REFILL_US)

    def _put(self, address: str, full_at_us: int) -> None:
        self._full_at_us.pop(address, None)
        while len(self._full_at_us) >= MOST_ADDRESSES:
            del self._full_at_us[next(iter(self._full_at_us))]
        self._full_at_us[address] = full_at_us
