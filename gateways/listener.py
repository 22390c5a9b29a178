"""A listening socket that strangers cannot fill: few at once are let in, in turn by address, and who stays silent goes first.

A connection is a *stranger's* until its protocol says that it knows who it is (`Guest.known`): while TLS shakes hands, before
an MQTT CONNECT or a first request was believed. Only so many strangers are attended to at once, of one address (an IPv6 /64
is one: who has one of it has all) and in all; further connections wait, untouched and cheap, and while some wait the
strangers that were given time enough and said nothing are ended. So work on strangers between two turns of the loop is
bounded, and so is memory; who is known is never in anybody's way. A refusal takes the longer the more an address has had
(`Guest.failed`).
What reaches the socket faster than it can be accepted is the kernel's and the firewall's to drop. Clause 9.1b.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple, Protocol

from domain.peers import peer_of

logger = logging.getLogger(__name__)

BACKLOG: Final = 4_096
_ACCEPTS_A_TURN: Final = 32
_MOST_WAITING: Final = 4_096
_TICK_S: Final = 0.1
_GRACE_S: Final = 1.0  # for a stranger that others wait for
_WAIT_S: Final = 10.0
_NO_SOCKETS_S: Final = 0.5
_FREE_FAILURES: Final = 20
_DELAY_S: Final = 0.05  # for each failure beyond
_MOST_DELAY_S: Final = 3.0
_FORGIVEN_A_S: Final = 1.0
_MOST_DELAYED: Final = 64  # of an address at once: they hold places that others of it wait for
_MOST_ADDRESSES: Final = 10_000  # that are remembered for what failed


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """`max_connections` and `max_per_address` count strangers and those who are known; `shares` are addresses behind
    which there are many (of proxies): to them nothing of what is said per address applies.
    """

    max_connections: int = 20_000
    max_per_address: int = 20_000
    max_strangers: int = 512
    max_strangers_per_address: int = 256
    handshake_timeout_s: float = 10.0
    shares: Callable[[str], bool] = lambda _address: False


class _Waiting(NamedTuple):
    sock: socket.socket
    address: str
    since_s: float


@dataclass(slots=True, eq=False)
class _Address:
    name: str  # of an IPv6 address its network's, unless it is shared
    open: int = 0
    failures: float = 0.0
    failed_s: float = 0.0
    delayed: int = 0
    strangers: dict[Guest, None] = field(default_factory=dict)  # the oldest first
    waiting: deque[_Waiting] = field(default_factory=deque)


class Guest:
    """One connection, as its listener knows it. `cut` is how it is ended when others need its place, once.

    `address`: where its peer is. `is_owed`: whether it has said all that it can and waits for an answer of ours.
    """

    __slots__ = ("_at", "_has_left", "_listener", "_since_s", "address", "cut", "is_known", "is_owed")

    def __init__(self, listener: Listener, at: _Address, sock: socket.socket, address: str, now_s: float) -> None:
        self._listener, self._at, self._since_s = listener, at, now_s
        self.address = address
        self.is_known = False
        self._has_left = False
        self.cut: Callable[[], None] = partial(_shut, sock)
        self.is_owed: Callable[[], bool] = _no

    def known(self) -> None:
        """It has said who it is, and is believed."""
        if not self.is_known:
            self.is_known = True
            self._listener._no_stranger(self._at, self)  # noqa: SLF001 (two halves of one thing)

    def failed(self) -> float:
        """What it said of itself is wrong: returns the seconds after which to say so."""
        return self._listener._failed(self._at)  # noqa: SLF001

    async def delay(self) -> None:
        """What it is about to be told is a refusal: wait as long as its address has made that take."""
        delay_s = self.failed()
        if delay_s == 0.0 or self._at.delayed >= _MOST_DELAYED:
            return
        self._at.delayed += 1
        try:
            await asyncio.sleep(delay_s)
        finally:
            self._at.delayed -= 1

    def left(self) -> None:
        """The connection is lost."""
        if not self._has_left:
            self._has_left = True
            self.cut, self.is_owed = _nothing, _no  # no cycle with its protocol
            self._listener._left(self._at, self)  # noqa: SLF001

    def is_older_than(self, moment_s: float) -> bool:
        return self._since_s < moment_s


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _nothing() -> None:
    """It is lost already."""


def _no() -> bool:
    return False


class GuestProtocol(Protocol):
    """Makes the protocol of a connection; that calls the guest's `left` when its connection, once made, is lost."""

    def __call__(self, guest: Guest) -> asyncio.Protocol: ...


class Listener:
    """See module. Listens from `start` to `close`; `refused` counts by why, and may be read at any time."""

    def __init__(
        self,
        make: GuestProtocol,
        limits: ListenerLimits,
        tls: ssl.SSLContext | None = None,
        refused: Counter[str] | None = None,
    ) -> None:
        self._make = make
        self._limits = limits
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._addresses: dict[str, _Address] = {}
        self._queue: deque[_Address] = deque()  # addresses of which some wait
        self._waiting = 0
        self._strangers = 0
        self._open = 0
        self._greetings: set[asyncio.Task[None]] = set()
        self._unmade: dict[Guest, socket.socket] = {}  # let in, and no connection of the loop's yet
        self._socket: socket.socket | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self.refused: Counter[str] = Counter() if refused is None else refused

    def start(self, listening: socket.socket) -> None:
        """Take connections of a socket that is bound and listens."""
        listening.setblocking(False)
        self._socket = listening
        self._loop.add_reader(listening, self._accept)
        self._tick()

    def close(self) -> None:
        """Take no more; connections that were made are their protocols' to end."""
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        if self._ticker is not None:
            self._ticker.cancel()
        while self._queue:
            self._drop_waiting(self._queue[0], "closing")
        for task in self._greetings:
            task.cancel()
        for guest, sock in self._unmade.items():  # a task that is cancelled before its first step runs nothing
            sock.close()
            guest.left()
        self._unmade.clear()

    async def wait_closed(self) -> None:
        """Nothing is left to wait for."""

    # ---- sockets in

    def _accept(self) -> None:
        """What came, a bounded part of it: those who are connected have their turn in between."""
        for _ in range(_ACCEPTS_A_TURN):
            if self._socket is None:
                return
            try:
                sock, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no more open files
                logger.warning("no connection can be accepted for %.1f s: %s", _NO_SOCKETS_S, error)
                self.refused["no-sockets"] += 1
                self._loop.remove_reader(self._socket)
                self._loop.call_later(_NO_SOCKETS_S, self._accept_again)
                return
            sock.setblocking(False)
            self._came(sock, peer[0] if peer else "")  # a Unix socket has none

    def _accept_again(self) -> None:
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._accept)

    def _came(self, sock: socket.socket, address: str) -> None:
        is_shared = self._limits.shares(address)
        name = address if is_shared else peer_of(address)
        at = self._addresses.get(name)
        if at is None:
            at = self._addresses[name] = _Address(name)
        self._open += 1
        at.open += 1
        if at.open > self._limits.max_per_address and not is_shared:
            self._drop(at, sock, "too-many-of-address")
            return
        if not at.waiting:
            self._queue.append(at)
        at.waiting.append(_Waiting(sock, address, self._loop.time()))
        self._waiting += 1
        while self._waiting and (self._open > self._limits.max_connections or self._waiting > _MOST_WAITING):
            self._drop_waiting(max(self._queue, key=lambda at: len(at.waiting)), "too-many-connections")
        self._attend()

    def _drop_waiting(self, at: _Address, why: str) -> None:
        """Close the one of that address that has waited longest."""
        self._waiting -= 1
        self._drop(at, at.waiting.popleft().sock, why)
        if not at.waiting:
            self._queue.remove(at)

    def _drop(self, at: _Address, sock: socket.socket, why: str) -> None:
        self.refused[why] += 1
        sock.close()
        self._gone(at)

    def _attend(self) -> None:
        """Let in who waits, as far as there is room, one of each address after the other."""
        full = 0
        while full < len(self._queue) and self._strangers < self._limits.max_strangers:
            at = self._queue.popleft()
            if self._is_full(at):
                full += 1
            else:
                full = 0
                self._waiting -= 1
                self._let_in(at, at.waiting.pop())  # who came last: the others may have given up
            if at.waiting:
                self._queue.append(at)

    def _is_full(self, at: _Address) -> bool:
        return len(at.strangers) >= self._limits.max_strangers_per_address and not self._limits.shares(at.name)

    def _let_in(self, at: _Address, waiting: _Waiting) -> None:
        sock = waiting.sock
        guest = Guest(self, at, sock, waiting.address, self._loop.time())
        at.strangers[guest] = None
        self._strangers += 1
        self._unmade[guest] = sock
        task = self._loop.create_task(self._greet(guest, sock))
        self._greetings.add(task)
        task.add_done_callback(self._greetings.discard)

    async def _greet(self, guest: Guest, sock: socket.socket) -> None:
        """Until the protocol has its connection; with TLS, once hands are shaken."""
        deadline = None if self._tls is None else self._limits.handshake_timeout_s
        del self._unmade[guest]
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._make(guest), sock, ssl=self._tls, ssl_handshake_timeout=deadline
            )
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError
            self.refused["handshake"] += 1
            guest.failed()
            guest.left()
        except asyncio.CancelledError:
            guest.left()
            raise

    # ---- what guests say

    def _no_stranger(self, at: _Address, guest: Guest) -> None:
        if guest in at.strangers:
            del at.strangers[guest]
            self._strangers -= 1
            if self._queue:
                self._loop.call_soon(self._attend)

    def _left(self, at: _Address, guest: Guest) -> None:
        self._no_stranger(at, guest)
        self._gone(at)

    def _gone(self, at: _Address) -> None:
        self._open -= 1
        at.open -= 1
        if not at.open and not at.failures:
            self._addresses.pop(at.name, None)

    def _failed(self, at: _Address) -> float:
        now_s = self._loop.time()
        forgiven = max(0.0, at.failures - (now_s - at.failed_s) * _FORGIVEN_A_S)
        at.failures = min(forgiven + 1.0, _FREE_FAILURES + _MOST_DELAY_S / _DELAY_S)  # more would be remembered for hours
        at.failed_s = now_s
        if self._limits.shares(at.name):
            return 0.0
        return min(_MOST_DELAY_S, max(0.0, at.failures - _FREE_FAILURES) * _DELAY_S)

    # ---- time

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(_TICK_S, self._tick)  # first: whatever fails below, the next one comes
        now_s = self._loop.time()
        for at in list(self._queue):
            while at.waiting and at.waiting[0].since_s < now_s - _WAIT_S:
                self._drop_waiting(at, "waited-too-long")
        if self._strangers >= self._limits.max_strangers:
            self._make_room(list(self._addresses.values()), now_s)
        else:
            self._make_room([at for at in self._queue if self._is_full(at)], now_s)
        if len(self._addresses) > _MOST_ADDRESSES:
            self._addresses = {name: at for name, at in self._addresses.items() if at.open}

    def _make_room(self, places: list[_Address], now_s: float) -> None:
        """End those strangers that have said nothing for long: others wait.

        Those that wait for an answer stay, as far as they take no more than half of the places.
        """
        if not self._queue:
            return
        spared = 0
        for at in places:
            of_address = 0
            for guest in list(at.strangers):
                if not guest.is_older_than(now_s - _GRACE_S):
                    break
                is_room = spared < self._limits.max_strangers // 2 and of_address < self._limits.max_strangers_per_address // 2
                if is_room and guest.is_owed():
                    spared += 1
                    of_address += 1
                elif guest.cut is not _nothing:
                    cut, guest.cut = guest.cut, _nothing  # it may take a while to leave
                    self.refused["crowded-out"] += 1
                    cut()


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens at `host`; port 0 is a free one. Raises OSError when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
