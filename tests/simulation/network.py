"""The weather of one run: what happens to messages between nodes and the server, and how bad it is."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from tests.simulation.virtual_time import Node


@dataclass(frozen=True)
class Weather:
    """Chances by message."""

    drop: float = 0.0
    duplicate: float = 0.0
    slow: float = 0.0  # takes up to `slow_s` longer, so that others overtake it
    slow_s: float = 8.0
    usual_s: float = 0.01

    @classmethod
    def of(cls, chance: random.Random) -> Weather:
        """Calm in a third of all runs; else each kind of fault with a chance of its own."""
        if chance.random() < 1 / 3:
            return cls()
        return cls(chance.choice([0, 0.02, 0.1]), chance.choice([0, 0.05, 0.2]), chance.choice([0, 0.05, 0.2]))


@dataclass
class Network:
    """Between nodes and the server. A node that is cut off sends and hears nothing until it is joined again."""

    weather: Weather
    chance: random.Random
    _cut: dict[str, asyncio.Event] = field(default_factory=dict)

    def calm(self) -> None:
        """From now on nothing goes wrong any more."""
        self.weather = Weather()
        for name in list(self._cut):
            self.join(name)

    def cut(self, node: Node) -> None:
        self._cut.setdefault(node.name, asyncio.Event())

    def join(self, name: str) -> None:
        if name in self._cut:
            self._cut.pop(name).set()

    def is_cut(self, node: Node) -> bool:
        return node.name in self._cut

    async def joined(self, node: Node) -> None:
        """Return once the node is not cut off."""
        while node.name in self._cut:
            await self._cut[node.name].wait()

    def delays_s(self) -> list[float]:
        """After how long each copy of a message arrives: none when it is lost, two when it is doubled."""
        chance, weather = self.chance, self.weather
        if chance.random() < weather.drop:
            return []
        copies = 2 if chance.random() < weather.duplicate else 1
        return [self.delay_s() for _ in range(copies)]

    def delay_s(self) -> float:
        chance, weather = self.chance, self.weather
        longer = chance.uniform(0, weather.slow_s) if chance.random() < weather.slow else 0.0
        return chance.uniform(0, 2 * weather.usual_s) + longer
