"""The live stream of alarm events, each with the platform's intended use and its place in the stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from api.hosts import Hosts
from api.live.feed import Feed
from api.live.subscription import Subscription, sse
from api.times import UTC_ZONE
from domain import subjects
from domain.alarms import INTENDED_USE, AlarmEvent, Priority
from domain.ports import Clock
from runtime.bus import Bus
from runtime.follower import StreamMessage

_decoder: Final = msgspec.json.Decoder(AlarmEvent)
_INTENDED_USE: Final = msgspec.json.encode(INTENDED_USE)


@dataclass(frozen=True, slots=True)
class PreparedAlarm:
    """One event as all clients get it."""

    priority: Priority
    event: bytes


def prepare(message: StreamMessage) -> PreparedAlarm:
    """Decode and render one message, once for all clients."""
    event = _decoder.decode(message.payload)
    times = {
        "onset": UTC_ZONE.text(event.onset_us),
        "event_time": UTC_ZONE.text(event.event_us),
        "arrival": UTC_ZONE.text(event.arrival_us),
        "stored": UTC_ZONE.text(message.stored_us),
    }
    data = b'{"intended_use":%s,"sequence":%d,"times":%s,"event":%s}' % (
        _INTENDED_USE, message.sequence, msgspec.json.encode(times), message.payload,
    )  # fmt: skip
    return PreparedAlarm(event.priority, sse("alarm", data, message.sequence))


def alarm_feed(bus: Bus) -> Feed:
    return Feed(bus, subjects.ALARMS_STREAM, subjects.ALARMS_SUBJECTS, prepare)


def alarm_client(feed: Feed, hosts: Hosts, clock: Clock, hospitals: list[str], priority: Priority) -> Subscription:
    """A client of alarms of these hospitals (none: all), of `priority` and above."""

    def select(alarm: PreparedAlarm) -> bytes | None:
        return alarm.event if alarm.priority >= priority else None

    wanted = frozenset(map(subjects.alarm, hospitals)) or None
    return Subscription(wanted, select, _heartbeat(feed, hosts, clock))


def _heartbeat(feed: Feed, hosts: Hosts, clock: Clock) -> Callable[[], bytes]:
    """All alarms of readings that came up to `high_water_us` have been notified."""

    def beat() -> bytes:
        reached = hosts.high_water()
        lag_ms = None if reached.time_us is None else (clock.now_us() - reached.time_us) / 1000
        body = {
            "high_water_us": reached.time_us,
            "high_water": UTC_ZONE.maybe(reached.time_us),
            "last_sequence": feed.last_sequence,
            "lag_ms": lag_ms,
            "connected": feed.is_connected and not reached.silent_shards,
            "silent_shards": reached.silent_shards,
        }
        return sse("heartbeat", msgspec.json.encode(body))

    return beat
