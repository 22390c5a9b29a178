"""The live stream of alarm events, each with the platform's intended use and its place in the stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from api.hosts import Hosts
from api.live.feed import Feed
from api.live.subscription import Subscription, sse
from api.times import UTC_ZONE
from domain import subjects
from domain.alarms import INTENDED_USE, AlarmEvent, AlarmSubject, Priority
from domain.labels import of_readings
from domain.permissions import Located, Reach
from domain.ports import Clock
from domain.principals import Place
from runtime.bus import Bus
from runtime.follower import StreamMessage

_decoder: Final = msgspec.json.Decoder(AlarmEvent)
_INTENDED_USE: Final = msgspec.json.encode(INTENDED_USE)


@dataclass(frozen=True, slots=True)
class PreparedAlarm:
    """One event as all clients get it. It names nobody: a patient is a key, and what people write does not pass here."""

    priority: Priority
    event: bytes
    subject: AlarmSubject


@dataclass(frozen=True, slots=True)
class AlarmScope:
    """Which alarms a client may see. `districts`: of the hospitals it may see any of (None: all of the region).

    `raised`: the levels of patients above their class, and who is withheld, when the client came; when one changes, streams are
    ended.
    """

    reach: Reach
    districts: Mapping[str, str | None] | None
    raised: Mapping[str, int]

    def holds(self, subject: AlarmSubject) -> bool:
        key, hospital_id = subject.patient_key, subject.hospital_id
        district = self.districts.get(hospital_id) if self.districts is not None else None
        place = Place(hospital_id.partition(".")[0], district, hospital_id, subject.ward_id)
        level = of_readings(None if key is None else self.raised.get(key), has_patient=key is not None)
        return self.reach.holds(Located(place, level, key))


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
    return PreparedAlarm(event.priority, sse("alarm", data, message.sequence), event.subject)


def alarm_feed(bus: Bus) -> Feed:
    return Feed(bus, subjects.ALARMS_STREAM, subjects.ALARMS_SUBJECTS, prepare)


def alarm_client(
    feed: Feed, hosts: Hosts, clock: Clock, hospitals: list[str], priority: Priority, scope: AlarmScope
) -> Subscription:
    """A client of the alarms within `scope`, of these hospitals (none: of all there), of `priority` and above."""

    def select(alarm: PreparedAlarm) -> bytes | None:
        return alarm.event if alarm.priority >= priority and scope.holds(alarm.subject) else None

    inside = [one for one in hospitals if scope.districts is None or one in scope.districts] or list(scope.districts or ())
    wanted = frozenset(map(subjects.alarm, inside)) if hospitals or scope.districts is not None else None
    client = Subscription(wanted, select, _heartbeat(feed, hosts, clock))
    client.is_limited = True  # however far a reach goes, it holds nobody who is withheld: nor who was, until judged anew
    return client


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
