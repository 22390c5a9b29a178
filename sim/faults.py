"""What goes wrong in a world. A fault is data; `sim.world` acts it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from domain.errors import InvalidInput

KINDS: Final = (
    "sepsis", "wan-cut", "power-failure", "clock-skew", "network-loss", "network-duplicate", "network-delay",
    "sensor-stuck", "sensor-off", "equipment-breakdown",
)  # fmt: skip
OF_DEVICES: Final = ("sensor-stuck", "sensor-off", "equipment-breakdown")  # their share is of devices
OF_MESSAGES: Final = frozenset({"network-loss", "network-duplicate"})  # their share is of a link's messages


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """`at_s`, `for_s`: when and how long (0: to the end); `hospitals`: indices, empty for all; `share`: of patients
    (sepsis), of devices (OF_DEVICES), of messages (OF_MESSAGES) or of gateways; `magnitude`: seconds of skew or mean
    delay; for sepsis how many times faster than an hour to the worst, 0 as 1. Negative skew is a clock that is slow.
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
        if self.magnitude < 0 and self.kind != "clock-skew":
            raise InvalidInput(f"fault {self.kind!r} has magnitude {self.magnitude}, expected 0 or more")

    @property
    def until_s(self) -> float:
        return self.at_s + self.for_s if self.for_s else float("inf")
