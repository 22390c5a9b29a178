"""What the runner and its generator process say to each other: one JSON object a line, over stdin and stdout.

The order holds device tokens, so it goes through a pipe and never into a file or onto a command line.
"""

from __future__ import annotations

from typing import Any

import msgspec

from domain.fleet_manifest import FleetRegistered
from runtime.tls import Trust
from scenarios.model import Fault, FleetWish, GeneratorLimits


class WorldRecipe(msgspec.Struct, frozen=True, tag="world"):
    """Play a simulated fleet: the same wish, seed, pace and faults give the same world in every process."""

    fleet: FleetWish
    seed: int
    region_id: str
    faults: list[Fault]
    pace: float
    registered: FleetRegistered


class RecordingRecipe(msgspec.Struct, frozen=True, tag="recording"):
    """Play a recording, `times` over in parallel, `speed` times as fast. `as_json`: each device is a client of its own."""

    path: str
    speed: float
    times: int
    limit: int | None
    region_id: str
    registered: FleetRegistered


class Order(msgspec.Struct, frozen=True):
    """All a generator needs. Everything before `warmup_s` is warm-up; `duration_s` None plays to the recording's end."""

    mqtt_host: str
    mqtt_port: int
    recipes: list[WorldRecipe | RecordingRecipe]
    warmup_s: float
    duration_s: float | None
    limits: GeneratorLimits
    books_path: str
    doors_trust: Trust | None = None  # None: the doors speak plain


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Begin at this instant; sent once everything is connected."""

    start_us: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Send nothing more, wait for acknowledgements, and close the books."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """All senders are connected."""

    senders: int
    connect_s: float


class ProbeTarget(msgspec.Struct, frozen=True):
    """A reading that is due at `due_us`: whoever wants to see it in the state of `handle` looks from then on."""

    handle: int
    metric: int
    time_us: int
    due_us: int


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """Once a second: how the generator is doing. Latencies in ms of what was acknowledged in the last seconds."""

    at_s: float
    sent: int
    acknowledged: int
    waiting: int
    connected: int
    reconnects: int
    late_share: float
    durable_p50_ms: float | None
    durable_p99_ms: float | None
    probes: list[ProbeTarget]


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The end: histograms and series to merge (see `measures`), and what happened in the world."""

    durable: dict[str, Any]
    lateness: dict[str, Any]
    late: int
    sends: int
    rates: dict[str, dict[int, float]]
    connected: int
    reconnects: int
    errors: dict[str, int]
    retransmitted: int
    backfilled: int
    elapsed_s: float
    truth: list[tuple[str, float, str, str]]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The generator could not do its work; `reason` is a sentence."""

    reason: str


FromGenerator = Ready | Beat | Done | Failed
ToGenerator = Start | Stop
