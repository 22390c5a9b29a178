"""Every NATS subject and stream of the platform, spelled once. Subjects reach logs: ids only, opaque ones."""

from __future__ import annotations

from typing import Final

from domain.errors import InvalidInput
from domain.ids import Address

READINGS_STREAM: Final = "READINGS"  # frames and control messages, ordered by shard
ALARMS_STREAM: Final = "ALARMS"  # what was notified, in order of arrival
REJECTS_STREAM: Final = "REJECTS"  # refused messages with their reason
AUDIT_STREAM: Final = "AUDIT"  # what the access log is to hold, until it does

READINGS_SUBJECTS: Final = ("reading.*", "control.*", "once.*")
ALARMS_SUBJECTS: Final = ("alarm.>",)
REJECTS_SUBJECTS: Final = ("reject.>",)
AUDIT_SUBJECTS: Final = ("audit.*",)

LOST: Final = "reading.lost"  # in place of messages that were lost; followed by nobody

READING: Final = "reading"
CONTROL: Final = "control"
_MAILBOX_TOKENS: Final = 5


def reading(shard: int) -> str:
    """Frames of a shard."""
    return f"reading.{shard}"


def control(shard: int) -> str:
    """Registrations, associations, presets: ordered with the shard's readings in the same stream."""
    return f"control.{shard}"


ANY_CONTROL: Final = f"{CONTROL}.*"


def of_shard(subject: str) -> tuple[str, int]:
    """READING or CONTROL, and whose, of a subject that `reading` or `control` made."""
    kind, _, shard = subject.partition(".")
    return kind, int(shard)


def once(name: str) -> str:
    """What became of a request with an idempotency key; `name` is a digest of its sender and key."""
    return f"once.{name}"


def alarm(hospital_id: str) -> str:
    """Alarm events of a hospital; `hospital_id` is `sz.h012`, so `alarm.sz.>` is a whole region."""
    return f"alarm.{hospital_id}"


def reject(hospital_id: str | None) -> str:
    """Refused messages, by hospital where it is known."""
    return f"reject.{hospital_id or 'unknown'}"


def audit(source: str) -> str:
    """Records (`log_entries.LogRecord`) for the access log, by the part of the platform that tells them."""
    return f"audit.{source}"


def actor(address: Address) -> str:
    """An actor's mailbox."""
    return f"actor.{address.kind}.{address.hospital_id}.{address.local_id}"


def address_of(subject: str) -> Address:
    """The actor whose mailbox `subject` is; raises InvalidInput for a subject that is no mailbox."""
    parts = subject.split(".")
    if len(parts) != _MAILBOX_TOKENS or parts[0] != "actor":
        raise InvalidInput(f"subject {subject!r} is no mailbox: expected 'actor.device.sz.h012.mon-7'")
    _, kind, region, hospital, local_id = parts
    return Address.parse(f"{kind}:{region}.{hospital}/{local_id}")


def actors_of_hospital(hospital_id: str) -> str:
    """All mailboxes of a hospital."""
    return f"actor.*.{hospital_id}.>"


def is_within(subject: str, wanted: str) -> bool:
    """Whether a subject is one of those that are `wanted`, which may have wildcards (`*` a part, `>` all that follow)."""
    if subject == wanted:
        return True
    parts, pattern = subject.split("."), wanted.split(".")
    if pattern[-1] == ">":
        pattern.pop()
        parts, rest = parts[: len(pattern)], parts[len(pattern) :]
        if not rest:
            return False
    return len(parts) == len(pattern) and all(one in ("*", part) for part, one in zip(parts, pattern, strict=True))


def shard(number: int) -> str:
    """Questions to a shard (`messages.ShardQuery`), answered by the host that holds it."""
    return f"shard.{number}"


def directory(shard: int) -> str:
    """Request: who is in a shard, as the business database says it now; see `runtime.shard_directory`."""
    return f"directory.shard.{shard}"


DIRECTORIES: Final = "directory.shard.*"
HOST_HEARTBEATS: Final = "heartbeat.host.*"
HOST_ORDERS: Final = "hosts.order"  # request: see `domain.host_orders`


def host_heartbeat(host_name: str) -> str:
    return f"heartbeat.host.{host_name}"


HOSTS_PROGRESS: Final = "progress.host.*"


def host_progress(host_name: str) -> str:
    """Core message (`messages.HostProgress`), many times a second: how far a host has come, for those who send to it."""
    return f"progress.host.{host_name}"


DIRECTORY_CHANGED: Final = "directory.changed"  # core message: doors drop what they cached
SESSIONS_CHANGED: Final = (
    "sessions.changed"  # core message: the id of a user or token whose session, state or grants are others now
)
SHARDS_HELD: Final = "shards.held"  # core message: the supervisor's view of all shards, every two seconds


STORAGE: Final = "storage.state"  # core message: the places on disk (`messages.StorageState`), every second
DOORS_COUNTED: Final = "doors.counted"  # core message (`door_counts.DoorsReport`), every two seconds
SIGHTINGS: Final = "doors.sightings"  # request: how devices came (a JSON array of `sightings.Sighting`); answered once kept
LOG_STATE: Final = "log.state"  # core message (`messages.LogState`), every second: how far the access log is
STREAM_SILENT: Final = "stream.silent"  # core message: a stream does not acknowledge; the payload is the subject


DOOR_STAMPS: Final = "doors.stamps"  # request (`traces.DoorQuestion`): what the doors remember of one message
LARGE_QUESTIONS: Final = "readings.large"  # request: see `runtime.large_questions`
NOBODY: Final = "nobody.listens"  # request: the server itself answers that nobody does


BUS_ACCESS: Final = "bus.access"  # request: look again at who of the hospitals' programs is let in; answered once it holds
ENROLMENT: Final = "enrolment.ask"  # request: see `domain.enrolment`


def host_metrics(host_name: str) -> str:
    """Request: the counters of one host (`HostMetrics.report`), as a JSON object."""
    return f"host.{host_name}.metrics"
