"""How much may be on its way to the hosts: what they work off within a short time, less of it for bulk.

Hosts tell many times a second how far they have come (`messages.HostProgress`). From that and from what this door has
sent, the readings *ahead* of each host are known, and how many it works off in a second at its best. A lane has room while
what is ahead of the shard's host would be worked off within the lane's time. So no deep backlog ever stands in front of a
vital sign: bulk waits at the door first, then what gateways say of hundreds of patients, and what a device says itself
only when a host cannot keep up with that alone. A host that has many rows which the lake lacks is sent no more either, so
its memory is bounded too, and it does not come to wait for the lake with a critical device's reading in its inbox.

A host that is not heard of holds nobody back: it is dead or being replaced, and meanwhile the stream keeps everything.
Why here and not in the stream: docs/decisions/0016-bulk-waits-at-the-door.md; how much: 0020. Clauses 5.4c, 7.3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from domain.messages import HostProgress
from domain.thing_models import Lane

_AHEAD_S: Final = {Lane.DIRECT: 1.0, Lane.PRIORITY: 0.4, Lane.BULK: 0.25}
_AHEAD_READINGS: Final = 100_000  # always allowed: two turns, so that a host never waits for us
_UNCOMMITTED_ROWS: Final = {Lane.DIRECT: 5_000_000, Lane.PRIORITY: 3_000_000, Lane.BULK: 1_500_000}
_SILENT_S: Final = 3.0
_SPAN_S: Final = 0.09  # rates are measured over no less
_REMEMBER_S: Final = 2.0  # how long the best rate of a host counts
_decoder: Final = msgspec.json.Decoder(HostProgress)


@dataclass(slots=True)
class _Host:
    heard_s: float
    ahead: int = 0  # readings sent to its shards, or about to be, that it has not applied
    uncommitted_rows: int = 0
    since_s: float = 0.0  # when the span began over which its rate is measured
    worked: int = 0  # readings applied in that span
    rates: deque[tuple[float, float]] = field(default_factory=deque)  # (when, readings a second), falling

    def measure(self, readings: int, now_s: float) -> None:
        """Remember the rate of the span that ends, unless it is too short to tell or one lately was better."""
        span_s = now_s - self.since_s
        self.worked += readings if span_s else 0  # when first heard of: since when is not known
        if span_s < _SPAN_S:
            return
        rate = self.worked / span_s
        self.since_s, self.worked = now_s, 0
        while self.rates and self.rates[0][0] < now_s - _REMEMBER_S:
            self.rates.popleft()
        while self.rates and self.rates[-1][1] <= rate:
            self.rates.pop()
        self.rates.append((now_s, rate))

    def has_room(self, lane: Lane) -> bool:
        if self.uncommitted_rows > _UNCOMMITTED_ROWS[lane]:
            return False
        rate = self.rates[0][1] if self.rates else 0.0
        return self.ahead < max(_AHEAD_READINGS, rate * _AHEAD_S[lane])


@dataclass(slots=True)
class _Shard:
    host: str | None = None
    applied: int = 0
    ahead: int = 0
    frames: deque[tuple[int, int]] = field(default_factory=deque)  # (stream sequence, readings), not yet applied


class Admission:
    """See module. `monotonic_s` is the event loop's time; `on_progress` is called when there may be room again."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._hosts: dict[str, _Host] = {}
        self._shards: dict[int, _Shard] = {}
        self.on_progress: Callable[[], None] = lambda: None

    def has_room(self, lane: Lane, shard: int) -> bool:
        """Whether more readings may be sent to `shard` now."""
        known = self._shards.get(shard)
        host = None if known is None or known.host is None else self._hosts[known.host]
        if host is None or self._monotonic_s() - host.heard_s > _SILENT_S:
            return True
        return host.has_room(lane)

    def taken(self, shard: int, readings: int) -> None:
        """Readings are about to be sent. Each is told of again: by `stored` or by `failed`."""
        self._count(self._shard(shard), readings)

    def stored(self, shard: int, sequence: int, readings: int) -> None:
        """They are in the stream, at `sequence`."""
        known = self._shard(shard)
        if sequence <= known.applied:
            self._count(known, -readings)
        else:
            known.frames.append((sequence, readings))

    def failed(self, shard: int, readings: int) -> None:
        """They may be in the stream or not; whoever sent them tries again."""
        self._count(self._shard(shard), -readings)

    def hear(self, payload: bytes, _subject: str) -> None:
        """Take what a host tells."""
        progress = _decoder.decode(payload)
        now_s = self._monotonic_s()
        host = self._hosts.setdefault(progress.host, _Host(now_s, since_s=now_s))
        for number, shard in self._shards.items():
            if shard.host == progress.host and number not in progress.applied:
                self._move(shard, None)
        worked = sum(self._applied(self._shard(shard), progress.host, at) for shard, at in progress.applied.items())
        host.measure(worked, now_s)
        host.heard_s, host.uncommitted_rows = now_s, progress.uncommitted_rows
        self.on_progress()

    def _applied(self, shard: _Shard, host: str, sequence: int) -> int:
        """`host` holds the shard and has come to `sequence`; returns how many of our readings that are."""
        if shard.host != host:
            self._move(shard, host)
        shard.applied = sequence
        readings = 0
        while shard.frames and shard.frames[0][0] <= sequence:
            readings += shard.frames.popleft()[1]
        self._count(shard, -readings)
        return readings

    def _move(self, shard: _Shard, host: str | None) -> None:
        if shard.host is not None:
            self._hosts[shard.host].ahead -= shard.ahead
        shard.host = host
        if host is not None:
            self._hosts[host].ahead += shard.ahead

    def _count(self, shard: _Shard, readings: int) -> None:
        shard.ahead += readings
        if shard.host is not None:
            self._hosts[shard.host].ahead += readings

    def _shard(self, number: int) -> _Shard:
        return self._shards.setdefault(number, _Shard())
