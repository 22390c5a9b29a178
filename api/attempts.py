"""How often an address may fail to sign in, and how much is hashed at once for it or for a user. Clause 7.2a."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

from domain.errors import (
    Busy,
    Forbidden,
    InvalidInput,
    SecondFactorRequired,
    SessionEnded,
    TooManyAttempts,
    Unauthenticated,
    Unavailable,
)  # fmt: skip
from domain.peers import peer_of
from domain.ports import Clock
from runtime.buckets import Buckets

BURST: Final = 20
REFILL_US: Final = 3_000_000
RIGHT_BURST: Final = 10
RIGHT_REFILL_US: Final = 5_000_000
_MOST_CODES: Final = 20
_MOST_TOKENS: Final = 4_096
_MOST_HASHED: Final = 2
_NAME_CHARS: Final = 128


class Attempts:
    """A bucket for each address (an IPv6 /64 is one): each attempt that fails takes one of BURST, one comes back in REFILL_US.

    So who guesses is slowed before it costs much, and who knows the password is not slowed by what others there do right,
    also at once. Tokens have a bucket of their own. Behind one shared address (a ward's NAT, a proxy that is not trusted) all
    share one bucket: one guesser there can keep the others out.
    A password costs work also when it is right: few are hashed at once for one address and for one user name, and of those
    that are right a user may show RIGHT_BURST, one more each RIGHT_REFILL_US.
    """

    def __init__(self, clock: Clock) -> None:
        self._failed = Buckets(clock.now_us, BURST, REFILL_US)
        self._failed_tokens = Buckets(clock.now_us, BURST, REFILL_US)
        self._right = Buckets(clock.now_us, RIGHT_BURST, RIGHT_REFILL_US)
        self._under_way: Counter[tuple[str, str]] = Counter()

    @contextlib.contextmanager
    def one(self, address: str) -> Iterator[None]:
        """An attempt. It counts when the block raises that what was given is wrong, and for nothing else.

        Raises TooManyAttempts when there is none left; also in place of what the block raises, so that of attempts made at
        once none beyond the measure is told what it was. Who is not waited for any more is counted; tokens that were good
        once (SessionEnded), or a password that is right (SecondFactorRequired), are not.
        """
        peer = peer_of(address)
        with self._held("of", peer, _MOST_CODES), _counted(self._failed, peer):
            yield

    @contextlib.contextmanager
    def token(self, address: str) -> Iterator[None]:
        """As `one`, for something that is looked up and not hashed."""
        peer = peer_of(address)
        with self._held("token", peer, _MOST_TOKENS), _counted(self._failed_tokens, peer):
            yield

    @contextlib.contextmanager
    def password(self, address: str, name: str) -> Iterator[None]:
        """As `one`, for what hashes a password of a user. Raises Busy too, before anything is hashed."""
        name = name.strip().casefold()[:_NAME_CHARS]
        with self._held("hashes for", peer_of(address), _MOST_HASHED), self._held("hashes as", name, _MOST_HASHED):
            if self._right.wait_us(name):
                raise TooManyAttempts("this user signs in too often: wait some seconds, then try again")
            try:
                with self.one(address):
                    yield
            except SecondFactorRequired:
                self._right.take(name)
                raise
            except (Unauthenticated, Forbidden, InvalidInput, Unavailable):  # counted there, or nothing was hashed
                raise
            except Exception:
                self._right.take(name)
                raise
            self._right.take(name)

    @contextlib.contextmanager
    def _held(self, what: str, whose: str, most: int) -> Iterator[None]:
        if self._under_way[what, whose] >= most:
            raise Busy("several sign-ins of this address or user are under way: try again in a second")
        self._under_way[what, whose] += 1
        try:
            yield
        finally:
            self._under_way[what, whose] -= 1
            if not self._under_way[what, whose]:
                del self._under_way[what, whose]


@contextlib.contextmanager
def _counted(failed: Buckets, address: str) -> Iterator[None]:
    too_many = TooManyAttempts("too many sign-ins from this address failed: wait some seconds, then try again")
    if failed.wait_us(address):
        raise too_many
    try:
        yield
    except (SessionEnded, SecondFactorRequired):
        raise
    except (Unauthenticated, Forbidden, InvalidInput):
        if failed.take(address):
            raise too_many from None
        raise
    except Exception:  # a database that is away, a full queue: nobody's guess
        raise
    except BaseException:
        failed.take(address)
        raise
