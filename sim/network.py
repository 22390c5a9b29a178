"""The links between gateways and platform: delay, loss with retransmission, duplicates, cuts with store-and-forward.

Everything that goes in comes out exactly once, but for duplicates, which say so; a cut holds and then delivers in
order. Event times stay what they were.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import simpy

from domain.quality import Mark
from sim.emission import Emission

_RESEND_S: Final = 1.0
_CATCH_UP_PER_S: Final = 20.0  # emissions a second that a gateway sends from its store after a cut
_BACKFILL_AFTER_S: Final = 5.0


@dataclass(slots=True)
class LinkState:
    """What holds now for one gateway's link. Shares and delays of several faults do not add: the last one set holds."""

    is_cut: bool = False
    is_dark: bool = False  # no power: nothing is made, nothing is sent
    loss: float = 0.0
    duplicate: float = 0.0
    delay_s: float = 0.0
    skew_us: int = 0


class Network:
    """All links of a world. `send` takes an emission at the present time of the environment; `deliver` gets it when due."""

    def __init__(
        self, env: simpy.Environment, gateways: int, deliver: Callable[[Emission], None], rng: np.random.Generator
    ) -> None:
        self._env = env
        self._deliver = deliver
        self._rngs = rng.spawn(gateways)  # a link of its own chance: no fault elsewhere shifts it
        self.links = [LinkState() for _ in range(gateways)]
        self._held: defaultdict[int, deque[Emission]] = defaultdict(deque)
        self._draining: set[int] = set()

    def send(self, emission: Emission) -> None:
        link = self.links[emission.gateway]
        if link.is_cut or emission.gateway in self._draining:
            self._hold(emission)
            return
        rng = self._rngs[emission.gateway]
        delay_s = rng.exponential(link.delay_s) if link.delay_s else 0.0
        while link.loss and rng.random() < link.loss:
            delay_s += _RESEND_S
        self._later(emission, delay_s)
        if link.duplicate and rng.random() < link.duplicate:
            self._later(replace(emission, retransmission=True), delay_s + _RESEND_S)

    def cut(self, gateway: int) -> None:
        self.links[gateway].is_cut = True

    def heal(self, gateway: int) -> None:
        """The link works again: what was held is sent in order, at a bounded rate."""
        self.links[gateway].is_cut = False
        if self._held[gateway] and gateway not in self._draining:
            self._draining.add(gateway)
            self._env.process(self._drain(gateway))

    def held(self) -> int:
        """Emissions waiting in gateways' stores."""
        return sum(map(len, self._held.values()))

    def _later(self, emission: Emission, delay_s: float) -> None:
        if delay_s <= 0:
            self._deliver(emission)
        else:
            self._env.process(self._deliver_after(emission, delay_s))

    def _deliver_after(self, emission: Emission, delay_s: float) -> Generator[Any, Any, None]:
        yield self._env.timeout(delay_s)
        if self.links[emission.gateway].is_cut:  # still under way when the line went: it is sent again with the rest
            self._hold(emission)
        else:
            self._deliver(replace(emission, due_s=self._env.now))

    def _hold(self, emission: Emission) -> None:
        insort(self._held[emission.gateway], emission, key=lambda held: held.due_s)

    def _drain(self, gateway: int) -> Generator[Any, Any, None]:
        store = self._held[gateway]
        while store and not self.links[gateway].is_cut:
            held = store.popleft()
            if self._env.now - held.due_s > _BACKFILL_AFTER_S:
                readings = held.readings
                held = replace(held, readings=readings.with_columns(quality=readings.quality | np.uint16(Mark.BACKFILL)))
            self._deliver(replace(held, due_s=self._env.now))
            yield self._env.timeout(1 / _CATCH_UP_PER_S)
        self._draining.discard(gateway)
