"""How often an address may fail to sign in, before a password is hashed for it. Clause 7.2a."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from domain.errors import Forbidden, InvalidInput, SecondFactorRequired, SessionEnded, TooManyAttempts, Unauthenticated
from domain.ports import Clock

BURST: Final = 20
REFILL_US: Final = 3_000_000
MOST_ADDRESSES: Final = 10_000


class Attempts:
    """A bucket for each address: each attempt takes one of BURST, one comes back in REFILL_US, and those that were right.

    So who guesses is slowed before it costs much, and who knows the password is not slowed by signing in often. Behind
    one shared address (a proxy, a ward's NAT) all share one bucket: one guesser there can keep the others out.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._full_at_us: dict[str, int] = {}  # when all will have come back; the oldest first

    @contextlib.contextmanager
    def one(self, address: str) -> Iterator[None]:
        """An attempt. It is kept when the block raises that what was given is wrong, and given back for all else.

        Raises TooManyAttempts when there is none left. Who is not waited for any more gets nothing back, nor do tokens
        that were good once (SessionEnded), or a password that is right (SecondFactorRequired), cost one.
        """
        self._take(address)
        try:
            yield
        except (SessionEnded, SecondFactorRequired):
            self._give_back(address)
            raise
        except (Unauthenticated, Forbidden, InvalidInput):
            raise
        except Exception:  # a database that is away, a full queue: nobody's guess
            self._give_back(address)
            raise
        else:
            self._give_back(address)

    def _take(self, address: str) -> None:
        now_us = self._clock.now_us()
        full_at_us = max(now_us, self._full_at_us.get(address, 0)) + REFILL_US
        if full_at_us - now_us > BURST * REFILL_US:
            raise TooManyAttempts("too many sign-ins from this address failed: wait some seconds, then try again")
        self._put(address, full_at_us)

    def _give_back(self, address: str) -> None:
        self._put(address, self._full_at_us.get(address, 0) - REFILL_US)

    def _put(self, address: str, full_at_us: int) -> None:
        self._full_at_us.pop(address, None)
        while len(self._full_at_us) >= MOST_ADDRESSES:
            del self._full_at_us[next(iter(self._full_at_us))]
        self._full_at_us[address] = full_at_us
