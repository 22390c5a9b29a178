"""Messages: what is said to shards (control), to actors (tell/ask) and by them. JSON on the wire, by msgspec.

Control messages travel in the readings stream, ordered with the readings of their shard, so that a replay decides
alike. They are idempotent: applying one twice is applying it once. No names of people, ever: patients appear as
opaque keys.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from domain.errors import InvalidInput, RejectedInput
from domain.quality import Mode


class DevicesRegistered(msgspec.Struct, frozen=True, tag="devices-registered"):
    """Columns of devices that exist from now on (parallel lists). `models` are thing model ids such as `monitor@1`."""

    hospital_id: str
    handles: list[int]
    device_ids: list[str]
    models: list[str]
    ward_ids: list[str | None]
    bed_ids: list[str | None]


class PatientAdmitted(msgspec.Struct, frozen=True, tag="patient-admitted"):
    """A patient's facts that rules need; sent again when they change. `handle` is the patient's own reading handle."""

    hospital_id: str
    patient_key: str
    handle: int
    age_years: float | None = None
    pregnant: bool = False
    spo2_scale: int = 1  # NEWS2 scale 2 only when prescribed
    bed_id: str | None = None
    ward_id: str | None = None
    admitted_us: int = 0
    discharged_us: int | None = None


class AssociationSpan(msgspec.Struct, frozen=True):
    """Device -> patient over [start_us, end_us); open while `end_us` is None."""

    patient_handle: int
    start_us: int
    end_us: int | None = None


class DeviceAssociated(msgspec.Struct, frozen=True, tag="device-associated"):
    """All spans of one device, replacing what was known of it (so a correction is the same message)."""

    hospital_id: str
    handle: int
    spans: list[AssociationSpan]
    clock_uncertainty_us: int = 2_000_000


class LimitsPreset(msgspec.Struct, frozen=True, tag="limits-preset"):
    """Limits set for one patient and metric, in place of the normal range by age. None removes the preset.

    `limits` is (very low, low, high, very high); None in a place is no limit there.
    """

    hospital_id: str
    patient_handle: int
    metric: str
    limits: tuple[float | None, float | None, float | None, float | None] | None


class MaintenanceSet(msgspec.Struct, frozen=True, tag="maintenance-set"):
    """A device (`handle`) or a whole ward is under maintenance in [from_us, until_us): no alarms from it."""

    hospital_id: str
    from_us: int
    until_us: int
    handle: int = 0
    ward_id: str | None = None


class DeviceEvent(msgspec.Struct, frozen=True, tag="device-event"):
    """Something a device said or that happened to it (`offline`, `online`, `lead_off`, …). Texts travel here.

    Which events a device says, and which of them are alarms, is said by its thing model. Of test and demo none is.
    `brought_by`: the gateway that says it of a device behind it; 0 where a device speaks for itself, or a door tells.
    """

    hospital_id: str
    handle: int
    event: str
    at_us: int
    detail: str | None = None
    mode: Mode = Mode.REAL
    brought_by: int = 0


class SecurityKind(StrEnum):
    """What a door noticed of a sender. Said as alarms when it goes on, or at once where it cannot be an accident."""

    IDENTITY_CONFLICT = "identity-conflict"  # one identity speaks from two addresses by turns
    REPLAY = "replay"  # a message came again that no honest sender would send again
    SPOOFING = "spoofing"  # it spoke for a device, or numbered in the name of one, that is not its own
    CLIENT_ID = "client-id"  # it called itself by an MQTT client id that another sender uses
    COUNTS_ANEW = "counts-anew"  # after a silence its numbers began again, with no time that tells it from a replay
    FLOODS = "floods"  # it sends more than it may, so that it is held at the door, and goes on


class SecurityNotice(msgspec.Struct, frozen=True, tag="security-notice"):
    """What a door noticed of a sender, which is the true one: `handle` is of the credential, never of whom it claimed.

    `detail` is a sentence of ours, of addresses, handles and counts. `count`: how often since the last notice of the kind.
    `is_alarm`: somebody has to look. Only doors say it; the hospital's shard raises the alarm, the API keeps the list.
    """

    hospital_id: str
    handle: int
    kind: SecurityKind
    at_us: int
    door: str
    detail: str
    address: str | None = None
    count: int = 1
    is_alarm: bool = False


class DeviceIsolated(msgspec.Struct, frozen=True, tag="device-isolated"):
    """A device is cut off from `since_us` on, or, `is_over`, no longer: what it says meanwhile is refused, whoever brings it.

    `number` names the isolation, for ever. `by`: the account that ordered it; `confirmed_by`: of the ward, who knows.
    `carried`: of a gateway, the devices behind it that were on a patient then and are cut off with it.
    """

    hospital_id: str
    handle: int
    number: int
    since_us: int
    by: str
    confirmed_by: str | None = None
    is_over: bool = False
    carried: list[int] = []


class HandOverStep(StrEnum):
    """`prepare` is told to the new shard; then `cut` and `settle` to the old one, whom the new one follows by then."""

    PREPARE = "prepare"
    CUT = "cut"
    SETTLE = "settle"


class HandOver(msgspec.Struct, frozen=True, tag="hand-over"):
    """A hospital goes from one shard to another. `number` names the hand-over, and with it the state that is handed over."""

    hospital_id: str
    number: int
    step: HandOverStep
    from_shard: int
    to_shard: int


Control = (
    DevicesRegistered | PatientAdmitted | DeviceAssociated | LimitsPreset | MaintenanceSet | DeviceEvent | SecurityNotice
    | DeviceIsolated | HandOver
)  # fmt: skip


class Reject(msgspec.Struct, frozen=True):
    """A refused message, kept for repair: why, who sent it, by which door, and the bytes."""

    reject_id: str
    reason: str
    detail: str
    door: str
    principal: str | None
    hospital_id: str | None
    received_us: int
    payload: bytes
    topic: str | None = None
    resubmitted_as: str | None = None


class TailQuery(msgspec.Struct, frozen=True, tag="tail"):
    """Ask a shard: rows beyond `after_sequence` of its stream, of these keys, times and values. Empty lists mean all.

    Answer: Arrow table of the lake's columns.
    """

    after_sequence: int
    handles: list[int] = []
    metrics: list[int] = []
    from_us: int | None = None
    until_us: int | None = None
    value_above: float | None = None
    value_below: float | None = None


class LatestQuery(msgspec.Struct, frozen=True, tag="latest"):
    """Ask a shard: the newest reading of each channel of these devices and metrics. Empty lists mean all.

    Answer: Arrow table handle, instance, metric, time_us, arrival_us, value, quality, state (channel state name).
    """

    handles: list[int] = []
    metrics: list[int] = []
    hospital_id: str | None = None


class FreshnessQuery(msgspec.Struct, frozen=True, tag="freshness"):
    """Ask a shard: what each device delivered against what its model promises, over the last full minute.

    Answer: Arrow table handle, expected_per_min, received_per_min, last_arrival_us, clock_offset_us (what is added to
    event times it sends), state (`live`, `stale`, `silent`, `never`, `isolated`).
    """

    hospital_id: str | None = None
    handles: list[int] = []


class PositionQuery(msgspec.Struct, frozen=True, tag="position"):
    """Ask a shard how far it has come. Answer: Arrow table of one row, applied and committed (stream sequences)."""


class TurnQuery(msgspec.Struct, frozen=True, tag="turn"):
    """Ask a shard which turn took the message at `sequence` of the stream.

    Answer: Arrow table of one row: host, epoch, applied, committed; began_us, ended_us and readings of the turn, null when
    it is too long ago or was another process'.
    """

    sequence: int


ShardQuery = TailQuery | LatestQuery | FreshnessQuery | PositionQuery | TurnQuery


class DescribeActor(msgspec.Struct, frozen=True, tag="describe"):
    """Ask an actor: your present state, as a JSON object. Every kind of actor understands it."""


class Tell(msgspec.Struct, frozen=True, tag="tell"):
    """Tell an actor something. Answered (`Posted`) once it is in the stream of the actor's shard, ordered with all else.

    One `message_id` is one message of one actor: told again under it, it is kept once.
    """

    message_id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
    message: Control


class Posted(msgspec.Struct, frozen=True):
    """Where a told message is kept: its shard, and its sequence in the readings stream."""

    shard: int
    sequence: int


ActorMessage = DescribeActor | Tell


class ShardHeld(msgspec.Struct, frozen=True):
    """One shard as its host reports it. Sequences are the stream's; `lag` counts messages that wait beyond `applied`."""

    shard: int
    epoch: int
    applied: int
    committed: int
    lag: int
    high_water_us: int
    devices: int
    channels: int


class HostHeartbeat(msgspec.Struct, frozen=True):
    """Said once a second by each host, from a thread that its turns cannot hold up.

    `loop_us`: when the host's event loop last moved, so that a host stuck in its own loop is seen too. `full_since_us`:
    since when it takes no more of the stream because the lake takes no rows; 0 while it does.
    """

    host: str
    pid: int
    at_us: int
    loop_us: int
    shards: list[ShardHeld]
    full_since_us: int = 0


class StorageLevel(StrEnum):
    """What a place on disk is good for; see `runtime.storage`."""

    OK = "ok"
    LOW = "low"  # the reserve is touched: no more readings are taken
    FULL = "full"  # next to nothing fits, or it cannot be written: nothing is taken


class StorageState(msgspec.Struct, frozen=True):
    """One place on disk as it was last looked at. `says`: one sentence, for people."""

    name: str
    path: str
    level: StorageLevel
    free_bytes: int
    says: str


class HostProgress(msgspec.Struct, frozen=True):
    """How far a host has come: shard -> sequence of the last message applied; and rows applied that the lake lacks."""

    host: str
    applied: dict[int, int]
    uncommitted_rows: int


class LogState(msgspec.Struct, frozen=True):
    """How far the access log is. `problem`: why it does not grow, one sentence; None while all is well.

    `cosigned`: entries that every witness signed for; None: there is no witness. `unwitnessed`: why it is behind.
    """

    at_us: int
    size: int  # entries that are signed and published
    waiting: int  # records that came and are not in it yet
    problem: str | None = None
    cosigned: int | None = None
    unwitnessed: str | None = None


_encoder: Final = msgspec.json.Encoder()
_query_decoder: Final[msgspec.json.Decoder[ShardQuery]] = msgspec.json.Decoder(ShardQuery)
_control_decoder: Final[msgspec.json.Decoder[Control]] = msgspec.json.Decoder(Control)
_actor_decoder: Final[msgspec.json.Decoder[ActorMessage]] = msgspec.json.Decoder(ActorMessage)
encode: Final = _encoder.encode
encode_controls: Final = _encoder.encode_lines  # many control messages as one text, one a line


def decode_controls(data: bytes) -> list[Control]:
    """Decode what `encode_controls` made; raises RejectedInput (`malformed-control`) for anything else."""
    try:
        return _control_decoder.decode_lines(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RejectedInput("malformed-control", f"{len(data)} bytes are no lines of control messages: {error}") from error


def decode_control(data: bytes) -> Control:
    """Decode a control message; raises RejectedInput (`malformed-control`) for anything else."""
    try:
        return _control_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RejectedInput("malformed-control", f"control message cannot be read: {error}") from error


def decode_query(data: bytes) -> ShardQuery:
    """Decode a question to a shard; raises InvalidInput for anything else."""
    try:
        return _query_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"question to a shard cannot be read: {error}") from error


def decode_actor_message(data: bytes) -> ActorMessage:
    """Decode what an actor is asked or told; raises InvalidInput for anything else."""
    try:
        return _actor_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"message to an actor cannot be read: {error}") from error
