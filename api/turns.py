"""Turns at the event loop: a few for each at a time, and those who waited come on one by one."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Own:
    taken: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class Turns:
    """`at_once` for each name; of all that wait, one goes on in each round of the event loop.

    So a round holds little work of one name, however much of it there is, and whoever needs several rounds for an answer is
    not behind all of it several times. A turn that is given back is free in the next round only: work that never waits
    for anything would else be done in one.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._names: dict[str, _Own] = {}
        self._called: deque[tuple[str, asyncio.Future[None]]] = deque()

    def waiting(self, name: str) -> int:
        return len(self._names[name].waiting) if name in self._names else 0

    async def take(self, name: str) -> None:
        """Return once there is a turn; it lasts until `give_back`."""
        own = self._names.setdefault(name, _Own())
        if own.taken < self._at_once:
            own.taken += 1
            return
        called = asyncio.get_running_loop().create_future()
        own.waiting.append(called)
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():
                self.give_back(name)
            else:
                called.cancel()
                with contextlib.suppress(ValueError):  # it was called up meanwhile, and the turn goes on to the next
                    own.waiting.remove(called)  # else it would count as waiting, with nobody there
            raise

    def give_back(self, name: str) -> None:
        asyncio.get_running_loop().call_soon(self._pass_on, name)

    def _pass_on(self, name: str) -> None:
        own = self._names[name]
        if own.waiting:
            self._called.append((name, own.waiting.popleft()))  # whose the turn is from now on
            if len(self._called) == 1:
                asyncio.get_running_loop().call_soon(self._go_on)
            return
        own.taken -= 1
        if not own.taken:
            del self._names[name]

    def _go_on(self) -> None:
        name, following = self._called.popleft()
        if self._called:
            asyncio.get_running_loop().call_soon(self._go_on)
        if following.done():  # it is not waited for any more
            self._pass_on(name)
        else:
            following.set_result(None)
