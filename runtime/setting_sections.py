"""The sections of the settings, each frozen and typed; `runtime.settings` puts them together.

Every field carries its unit in its name and its meaning in its description; `docs/settings.md` is made from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, SecretStr, field_validator

from domain.errors import InvalidInput
from domain.principals import Place
from domain.retention import INPATIENT_DAYS
from domain.signed_notes import COSIGNATURE, PublicKey
from runtime.security_profile import PasswordScheme, SecondFactorRule, SecurityProfile

Port = Annotated[int, Field(ge=0, le=65535)]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:*-]{1,253}$")]
_FROZEN = ConfigDict(frozen=True, extra="forbid")


class ApiSettings(BaseModel):
    model_config = _FROZEN
    host: str = Field("127.0.0.1", description="Address the REST API listens on.")
    port: Port = Field(8080, description="Port of the REST API; 0 takes a free one.")
    tls_cert_file: Path | None = Field(None, description="PEM certificate with its chain, in place of the platform's own.")
    tls_key_file: Path | None = Field(None, description="PEM private key of `tls_cert_file`.")
    database_url: SecretStr | None = Field(
        None, description="As the top's `database_url`, with the API's own account (`vitalgrid sql-accounts`)."
    )


class DoorSettings(BaseModel):
    model_config = _FROZEN
    host: str = Field("127.0.0.1", description="Address the device doors listen on.")
    mqtt_port: Port = Field(1883, description="Port of the MQTT door; 0 takes a free one.")
    http_port: Port = Field(8081, description="Port of the HTTP door; 0 takes a free one.")
    tls_cert_file: Path | None = Field(None, description="PEM certificate with its chain, in place of the platform's own.")
    tls_key_file: Path | None = Field(None, description="PEM private key of `tls_cert_file`.")
    database_url: SecretStr | None = Field(
        None, description="As the top's `database_url`, with the doors' own account (`vitalgrid sql-accounts`)."
    )
    max_payload_bytes: int = Field(1_048_576, ge=1024, description="Largest message a door takes from a device.")
    max_connections: int = Field(20_000, ge=1, description="MQTT connections at once; further ones are refused.")
    max_in_flight: int = Field(
        64, ge=1, description="Unacknowledged messages a connection may have before it is read no further."
    )
    device_readings_a_s: float = Field(
        3000.0,
        ge=0,
        description="Readings a second that a device may send which speaks for itself; what is beyond waits: over MQTT unread and unacknowledged, over HTTP refused (429). 0: any number.",
    )
    gateway_readings_a_s: float = Field(200_000.0, ge=0, description="The same of a gateway, which speaks for a hospital.")
    readings_burst_s: float = Field(
        120.0, ge=1, description="So many seconds' worth of readings a sender may send at once before it waits."
    )


class LimitSettings(BaseModel):
    model_config = _FROZEN
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(
        (),
        description="Addresses or networks of reverse proxies whose X-Forwarded-For is believed; limits per address are then those of who asks through them. Over HTTP alone: the MQTT door sees the address of the connection.",
    )
    connections: int = Field(
        20_000, ge=1, description="HTTP connections at once, of the API and of the HTTP door each; further ones are closed."
    )
    connections_per_address: int = Field(20_000, ge=1, description="Connections of one address at once, on each port.")
    strangers: int = Field(
        512, ge=1, description="Connections on each port that are attended to before they have said who they are; others wait."
    )
    strangers_per_address: int = Field(256, ge=1, description="The same, of one address.")
    introduction_s: float = Field(
        10.0, gt=0, description="Longest time for TLS's handshake, for MQTT's CONNECT and for the header of a request."
    )
    body_grace_s: float = Field(10.0, gt=0, description="Longest silence in a request's body.")
    body_bytes_a_s: float = Field(1024.0, gt=0, description="Least rate of a request's body, after `limits.body_grace_s`.")
    unread_s: float = Field(30.0, gt=0, description="How long a peer may leave what it is sent unread.")
    failures: int = Field(200, ge=1, description="Requests with an unknown token that one address may make at once at the API.")
    failures_a_s: float = Field(5.0, gt=0, description="And further ones each second; beyond that 429.")
    cost: int = Field(
        50_000,
        ge=100,
        description="What one caller's requests to the API may cost at once: most cost 1, readings 3, searches, aggregates and imports 20.",
    )
    cost_a_s: float = Field(5000.0, gt=0, description="And further each second; beyond that 429.")
    at_once: int = Field(
        8, ge=1, description="Other requests of one caller that are worked on at once; further ones wait their turn."
    )
    large_at_once: int = Field(24, ge=1, description="Requests of cost 20 that run for one caller at once; beyond that 429.")
    live_streams: int = Field(
        256, ge=1, description="Live streams of one caller at once, of alarms and of readings each; beyond that 429."
    )


class IntakeSettings(BaseModel):
    model_config = _FROZEN
    gather_ms: float = Field(
        4.0, ge=0, le=1000, description="Longest time readings wait for company before they are committed."
    )
    gather_readings: int = Field(
        20_000, ge=1, le=100_000, description="Readings that are committed at once, without waiting on."
    )
    max_pending_readings: int = Field(2_000_000, ge=1, description="Readings in memory before senders are held back.")
    ack_timeout_s: float = Field(
        10.0, gt=0, description="Longest wait for the stream's acknowledgement before a sender is told to retry."
    )


class BusSettings(BaseModel):
    model_config = _FROZEN
    host: HostName = Field(
        "127.0.0.1", description="Address the embedded nats-server listens on; hospitals' programs come there."
    )
    port: Port = Field(0, description="Port of the embedded nats-server; 0 takes a free one.")
    certificate_days: float = Field(
        365.0, gt=0, le=3650, description="How long a certificate of a hospital's program on the bus is good."
    )
    max_stream_bytes: int = Field(20 * 2**30, ge=2**20, description="Largest size of the readings stream.")
    stream_retention_h: float = Field(48.0, ge=1, description="How long the readings stream keeps what the lake has.")
    duplicate_window_s: float = Field(7200.0, ge=120, description="How long the stream remembers message ids.")


class HostSettings(BaseModel):
    model_config = _FROZEN
    count: int = Field(2, ge=1, le=64, description="Host processes (Ray actors) that share the shards.")
    ray_address: str | None = Field(
        None, description="Ray cluster whose nodes run the hosts, with RAY_AUTH_TOKEN set; none: a Ray of the platform's own."
    )
    heartbeat_timeout_s: float = Field(
        5.0, gt=0, description="Silence after which a host is asked; one that is stopped or hangs loses its shards."
    )
    turn_readings: int = Field(50_000, ge=1, description="Most readings a host handles in one turn.")
    max_uncommitted_rows: int = Field(
        5_000_000, ge=1, description="Rows a host keeps while the lake cannot be written; then it takes no more of the stream."
    )
    snapshot_interval_s: float = Field(15.0, gt=0, description="Time between state snapshots.")
    live_horizon_s: float = Field(
        60.0, gt=0, description="Readings older than this on arrival are late: stored, shown, never paged."
    )


class LakeSettings(BaseModel):
    model_config = _FROZEN
    flush_interval_s: float = Field(5.0, gt=0, description="Longest time between commits to the lake.")
    flush_rows: int = Field(500_000, ge=1, description="Rows after which a commit does not wait for the interval.")
    compaction_interval_s: float = Field(30.0, gt=0, description="Time between compactions of small files.")
    retention_days: int = Field(3650, ge=1, description="Readings older than this are deleted from the lake.")


class RetentionSettings(BaseModel):
    model_config = _FROZEN
    inpatient_days: float = Field(
        INPATIENT_DAYS, ge=0, le=100_000, description="How long a patient's record is kept after the last discharge: 30 years."
    )
    erasure_grace_s: float = Field(
        259_200.0, ge=0, le=31_536_000, description="How long a request to erase a person may be taken back."
    )
    export_days: float = Field(1096, ge=0, description="How long it is kept who exported what, and answered which rejects.")
    maintenance_days: float = Field(1827, ge=0, description="How long a maintenance window is kept after its end.")
    outbox_days: float = Field(
        7, ge=1, description="How long what was told to hosts is kept after it was told: beyond `bus.duplicate_window_s`."
    )
    look_every_s: float = Field(5.0, gt=0, description="Time between looks for persons to erase.")
    round_every_s: float = Field(3600.0, gt=0, description="Time between deletions of what is past its time.")


class StorageSettings(BaseModel):
    model_config = _FROZEN
    reserve_bytes: int = Field(
        512 * 2**20, ge=0, description="Free space on each disk below which doors take no more readings (507, no PUBACK)."
    )


class WitnessSettings(BaseModel):
    model_config = _FROZEN
    url: str = Field(pattern=r"^https?://[^\s?#]+$", description="Where the witness is asked (C2SP tlog-witness), by https.")
    vkey: str = Field(description="Its key, as it says itself at its start.")
    ca_file: Path | None = Field(None, description="PEM authority of its certificate; none: whom this machine trusts.")

    @field_validator("vkey")
    @classmethod
    def _is_a_witness(cls, vkey: str) -> str:
        try:
            public = PublicKey.parse(vkey)
        except InvalidInput as error:
            raise ValueError(str(error)) from None
        if public.kind != COSIGNATURE:
            raise ValueError(f"{public.name} signs as something else than a witness: expected the vkey that a witness says")
        return vkey


class AuditSettings(BaseModel):
    model_config = _FROZEN
    origin: str | None = Field(
        None, pattern=r"^[^\s+]{1,200}$",
        description="Name of the access log and of its keys, for life; such as `example.org/vitalgrid/sz`. None: `vitalgrid/` and the region.",
    )  # fmt: skip
    own_witness: bool = Field(
        True,
        description="Whether a process of this platform witnesses the access log; it shares the machine, so it is no other's eye.",
    )
    witnesses: tuple[WitnessSettings, ...] = Field(
        (),
        description="Witnesses of the access log on other machines (`vitalgrid witness`), each with `url`, `vkey` and perhaps `ca_file`.",
    )


class WebhookSettings(BaseModel):
    model_config = _FROZEN
    url: str | None = Field(
        None,
        description="Where each alarm event is POSTed, by https (in `dev` plain on this machine); none: no webhook.",
    )
    ca_file: Path | None = Field(None, description="PEM authority of its certificate; none: whom this machine trusts.")
    place: str | None = Field(
        None, description="Where alarms are told of: `sz`, `sz:futian`, `sz.h012` or `sz.h012/icu`; none: in the whole region."
    )
    highest_level: int = Field(
        4, ge=3, le=5, description="Alarms of patients above this level are not told; those of withheld records never are."
    )
    secret: SecretStr | None = Field(None, description="Key of the webhook's HMAC-SHA256 signature (Standard Webhooks).")

    @field_validator("place")
    @classmethod
    def _is_a_place(cls, place: str | None) -> str | None:
        try:
            return None if place is None else str(Place.parse(place))
        except InvalidInput as error:
            raise ValueError(str(error)) from None


class SecuritySettings(BaseModel):
    model_config = _FROZEN
    profile: SecurityProfile = Field(
        SecurityProfile.STANDARD,
        description=(
            "`standard`: TLS, administrators' powers apart, and others may be answered. `cn`: as `standard`, with data sealed"
            " at rest. `dev`: plain, for tests and trials on this machine alone. What is laxer is refused."
        ),
    )
    seal_files: bool | None = Field(
        None,
        description=(
            "Seal what is written from now on: the lake, snapshots and what alarms say (SM4-GCM), the streams (AES). None: in"
            " profile `cn`, which allows nothing else. Streams cannot go back."
        ),
    )
    names: tuple[HostName, ...] = Field(
        (), description="Further host names and addresses for which the platform's own certificates are to hold."
    )
    password_iterations: int = Field(
        600_000,
        ge=1_000,
        le=100_000_000,
        description="PBKDF2-SM3 iterations of a stored password; `standard` wants 600,000 or more. Others are made anew at sign-in.",
    )
    password_scheme: PasswordScheme = Field(
        PasswordScheme.PBKDF2_SM3,
        description="How stored passwords are derived; those of another scheme are made anew at sign-in. `argon2id` (64 MiB, "
        "3 passes) costs a guesser memory too, and is no national cryptography.",
    )
    password_days: int = Field(
        0, ge=0, le=3650, description="Age in days after which a password has to be changed; 0: it need not for its age."
    )
    given_password_days: float = Field(
        7.0,
        gt=0,
        le=365,
        description="Days within which a password that somebody else gave has to be changed, or it opens nothing.",
    )
    credential_days: int = Field(
        365, ge=1, le=3650, description="Age in days from which a device's credential counts as old in the inventory."
    )
    second_factor: SecondFactorRule | None = Field(
        None,
        description="Who has to have a second factor: `nobody`, `administrators`, `everybody`. None: as the profile wants, "
        "in `dev` nobody, in `standard` administrators (local operators and privacy officers among them).",
    )
    session_idle_s: float = Field(
        900.0, ge=30, description="Time without anything done after which a user has to sign in again."
    )
    session_lifetime_s: float = Field(43_200.0, ge=60, description="Longest time of a session, whatever is done.")
    claim_code_hours: float = Field(72.0, gt=0, le=720, description="How long a device's claim code may be used.")
    device_certificate_days: float = Field(
        365.0, gt=0, le=3650, description="How long a certificate of a device is good; devices renew theirs before."
    )
    certificate_overlap_hours: float = Field(
        24.0, ge=0, le=720, description="How long a device's certificate is still good beside the one that it renewed it with."
    )
    lock_failures: int = Field(5, ge=1, description="Failed sign-ins in a row that lock a user.")
    lock_s: float = Field(
        900.0, gt=0, description="How long a user is locked; failures further apart than this are not in a row."
    )
