"""How often an address may fail to sign in, before a password is hashed for it. Clause 7.2a."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from domain.errors import Forbidden, InvalidInput, SecondFactorRequired, SessionEnded, TooManyAttempts, Unauthenticated
from domain.ports import Clock
from runtime.buckets import Buckets

BURST: Final = 20
REFILL_US: Final = 3_000_000


class Attempts:
    """A bucket for each address: each attempt takes one of BURST, one comes back in REFILL_US, and those that were right.

    So who guesses is slowed before it costs much, and who knows the password is not slowed by signing in often. Behind
    one shared address (a ward's NAT, a proxy that is not trusted) all share one bucket: one guesser there can keep the
    others out.
    """

    def __init__(self, clock: Clock) -> None:
        self._buckets = Buckets(clock.now_us, BURST, REFILL_US)

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
            self._buckets.give_back(address)
            raise
        except (Unauthenticated, Forbidden, InvalidInput):
            raise
        except Exception:  # a database that is away, a full queue: nobody's guess
            self._buckets.give_back(address)
            raise
        else:
            self._buckets.give_back(address)

    def _take(self, address: str) -> None:
        if self._buckets.take(address):
            raise TooManyAttempts("too many sign-ins from this address failed: wait some seconds, then try again")
