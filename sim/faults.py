"""What goes wrong in a world. A fault is data; `sim.world` acts it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from domain.errors import InvalidInput

KINDS: Final = (
    "sepsis", "wan-cut", "power-failure", "clock-skew", "network-loss", "network-duplicate", "network-delay",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """`at_s`, `for_s`: when and how long (0: to the end); `hospitals`: indices, empty for all; `share`: of patients,
    gateways or messages; `magnitude`: in the unit of the kind (pace, seconds).
    """

    kind: str
    at_s: float
    for_s: float = 0.0
    hospitals: tuple[int, ...] = ()
    share: float = 1.0
    magnitude: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidInput(f"fault {self.kind!r} is unknown to the world: expected one of {', '.join(KINDS)}")
        if not 0 <= self.share <= 1 or self.at_s < 0 or self.for_s < 0:
            raise InvalidInput(f"fault {self.kind!r}: share lies in 0..1 and times are not negative, not {self}")

    @property
    def until_s(self) -> float:
        return self.at_s + self.for_s if self.for_s else float("inf")
