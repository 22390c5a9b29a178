"""Which faults happen when: drawn from a seed, so that a run can be played again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from tests.faults.orders import ORDERS
from tests.faults.stand import BUS_LINKS, DOOR_LINK
from tests.faults.tcp_proxy import CONDITIONS

# role -> its weight: what carries readings fails more often than what only answers
PROCESSES: Final = {
    "nats-server": 3, "host": 3, "doors": 2, "up": 2, "raylet": 2, "gcs_server": 1, "api": 1, "queries": 1, "upkeep": 1,
    "audit": 1, "witness": 1,
}  # fmt: skip
_LINK_WEIGHTS: Final = {DOOR_LINK: 3, **dict.fromkeys(BUS_LINKS, 1)}
_WAYS: Final = {"kill": 5, "stop": 4, "link": 4}
FIRST_S: Final = 1.0  # so that every sender has been heard before
LAST_S: Final = 8.0
ORDER: Final = "order"  # no fault of its own: what an operator wishes in the midst of others
_ORDERED: Final = 0.3  # share of runs in which something is ordered
_LONGEST_STOP_S: Final = 9.0  # longer than the silence after which a host's shards are given away


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """`way`: kill, stop, the name of a link's condition, or order. `pick`: which of several processes of a role, in [0, 1)."""

    at_s: float
    way: str
    target: str
    for_s: float = 0.0
    pick: float = 0.0

    @property
    def kind(self) -> str:
        return f"{self.way} {self.target}"

    def __str__(self) -> str:
        return f"{self.at_s:.1f} s {self.kind}" + (f" for {self.for_s:.1f} s" if self.for_s else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: faults in order, and when which hospital's probe crosses its limit."""

    seed: int
    faults: tuple[Fault, ...]
    crossings: tuple[tuple[float, int], ...]

    def __str__(self) -> str:
        return f"seed {self.seed}: " + "; ".join(map(str, self.faults))


def draw(seed: int, hospitals: int, only: str | None = None) -> Plan:
    """The plan of a seed. `only`: draw nothing but this kind, such as `kill host` or `blackhole senders`."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 6]))
    faults = [_fault(rng, only) for _ in range(int(rng.integers(1, 4)) if only is None else 1)]
    crossings = [(float(rng.uniform(FIRST_S, LAST_S)), number) for number in range(hospitals)]
    if only is None and rng.random() < _ORDERED:
        at_s = round(float(rng.uniform(FIRST_S, LAST_S)), 1)
        faults.append(Fault(at_s, ORDER, _choose(rng, dict.fromkeys(ORDERS, 1)), pick=float(rng.random())))
    return Plan(seed, tuple(sorted(faults)), tuple(sorted(crossings)))


def _fault(rng: np.random.Generator, only: str | None) -> Fault:
    at_s = round(float(rng.uniform(FIRST_S, LAST_S)), 1)
    way = _choose(rng, _WAYS)
    if only is not None:
        way, _, target = only.partition(" ")
    elif way == "link":
        way, target = _choose(rng, dict.fromkeys(CONDITIONS, 1)), _choose(rng, _LINK_WEIGHTS)
    else:
        target = _choose(rng, PROCESSES)
    for_s = 0.0 if way in ("kill", "reset", ORDER) else round(float(rng.uniform(0.5, _LONGEST_STOP_S)), 1)
    return Fault(at_s, way, target, for_s, float(rng.random()))


def _choose(rng: np.random.Generator, weights: dict[str, int]) -> str:
    share = np.array(list(weights.values()), dtype=np.float64)
    return str(rng.choice(list(weights), p=share / share.sum()))
