"""Settings: one frozen, typed tree. Defaults < `vitalgrid.toml` < environment (`VITALGRID_DOORS__MQTT_PORT=1884`).

Every field carries its unit in its name and its meaning in its description; `docs/settings.md` is made from them.
Only `cluster/` builds one; everybody else is handed plain values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from domain.errors import InvalidInput
from domain.retention import INPATIENT_DAYS, too_short
from domain.signed_notes import COSIGNATURE, PublicKey
from runtime.outgoing_links import plain_links
from runtime.security_profile import (
    PasswordScheme,
    SecondFactorRule,
    SecurityProfile,
    contradictions,
    least_second_factor,
    too_lax_accounts,
)

Port = Annotated[int, Field(ge=0, le=65535)]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:*-]{1,253}$")]
_OTHER_VARIABLES: Final = frozenset({"vitalgrid_token", "vitalgrid_ready_fd"})  # of commands; between processes
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
    highest_level: int = Field(4, ge=3, le=5, description="Alarms above this level are not told; withheld ones never are.")
    secret: SecretStr | None = Field(None, description="Key of the webhook's HMAC-SHA256 signature (Standard Webhooks).")


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


class _Environment(EnvSettingsSource):
    """The environment. What begins like a setting and is none is an unknown key, as in the file; its value is not shown."""

    def __call__(self) -> dict[str, Any]:
        found = super().__call__()
        for name in self.env_vars:
            section = name.removeprefix(self.env_prefix.lower()).partition("__")[0]
            if (
                name.startswith(self.env_prefix.lower())
                and name not in _OTHER_VARIABLES
                and section not in Settings.model_fields
            ):
                found[section] = f"environment variable {name.upper()}"
        return found


class Settings(BaseSettings):
    """The whole tree. Unknown keys and bad values are errors, all reported at once."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="VITALGRID_", env_nested_delimiter="__", toml_file="vitalgrid.toml"
    )

    region_id: str = Field(
        "sz", pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", description="Id of the region; the first part of hospital ids."
    )
    data_dir: Path = Field(Path("var"), description="Where everything the platform keeps lies.")
    shards: int = Field(16, ge=1, le=1024, description="Shards of the region. Fixed for life: choose before the first start.")
    database_url: SecretStr | None = Field(
        None,
        description=(
            "SQLAlchemy URL of the business database; default SQLite in `data_dir`. PostgreSQL over TCP takes"
            " `sslmode=verify-full` (in `dev` elsewhere than on this machine); a Unix socket (`?host=/run/postgresql`) does not."
        ),
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Least severe log level written.")
    log_format: str = Field("text", pattern="^(text|json)$", description="Log lines for people or for machines.")
    api: ApiSettings = ApiSettings()
    doors: DoorSettings = DoorSettings()
    limits: LimitSettings = LimitSettings()
    intake: IntakeSettings = IntakeSettings()
    bus: BusSettings = BusSettings()
    hosts: HostSettings = HostSettings()
    lake: LakeSettings = LakeSettings()
    retention: RetentionSettings = RetentionSettings()
    storage: StorageSettings = StorageSettings()
    audit: AuditSettings = AuditSettings()
    webhook: WebhookSettings = WebhookSettings()
    security: SecuritySettings = SecuritySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (pydantic's signature)
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the environment, then the file. Dotenv and secret files are not read."""
        return init_settings, _Environment(settings_cls), TomlConfigSettingsSource(settings_cls)

    @model_validator(mode="after")
    def _keeps_its_security_profile(self) -> Self:
        """All that is laxer than the profile, at once."""
        found = contradictions(
            self.security.profile, api_host=self.api.host, doors_host=self.doors.host, bus_host=self.bus.host,
            password_iterations=self.security.password_iterations, seal_files=self.security.seal_files,
        )  # fmt: skip
        found += too_lax_accounts(self.security.profile, self.security.second_factor, self.security.password_scheme)
        found += plain_links(self.security.profile, self._addresses(), self._databases())
        found += self._too_short()
        for key, given in (("api", self.api), ("doors", self.doors)):
            if (given.tls_cert_file is None) != (given.tls_key_file is None):
                found.append(f"{key}.tls_cert_file and {key}.tls_key_file belong together: one of them is missing")
        if found:
            raise ValueError("; ".join(found))
        return self

    def _addresses(self) -> dict[str, str]:
        """Whom the platform asks over HTTP, by setting."""
        asked = {f"audit.witnesses[{at}].url": witness.url for at, witness in enumerate(self.audit.witnesses)}
        return asked if self.webhook.url is None else {"webhook.url": self.webhook.url} | asked

    def _databases(self) -> dict[str, str]:
        given = {
            "database_url": self.database_url, "api.database_url": self.api.database_url,
            "doors.database_url": self.doors.database_url,
        }  # fmt: skip
        return {setting: url.get_secret_value() for setting, url in given.items() if url is not None}

    def _too_short(self) -> list[str]:
        """Records that would go sooner than the law allows, unless the profile is for trying things."""
        if self.security.profile is SecurityProfile.DEV:
            return []
        kept = {"retention.inpatient_days": self.retention.inpatient_days, "retention.export_days": self.retention.export_days}
        return [problem for setting, days in kept.items() if (problem := too_short(setting, days)) is not None]

    @property
    def second_factor(self) -> SecondFactorRule:
        """Who has to have a second factor, as it is in force."""
        return self.security.second_factor or least_second_factor(self.security.profile)

    @property
    def lake_dir(self) -> Path:
        """The table of readings."""
        return self.data_dir / "lake" / "readings"

    @property
    def audit_dir(self) -> Path:
        """The access log: its tree, and the events beside it."""
        return self.data_dir / "audit"

    @property
    def witness_dir(self) -> Path:
        """What the platform's own witness knows, and its key."""
        return self.data_dir / "witness"

    @property
    def audit_origin(self) -> str:
        """The name of the access log in force."""
        return self.audit.origin or f"vitalgrid/{self.region_id}"

    @property
    def keys_dir(self) -> Path:
        """Keys of `runtime.soft_keys`."""
        return self.data_dir / "keys"

    def sql_url_of(self, process: ApiSettings | DoorSettings) -> str:
        """As `sql_url`, of a process that may have an account of its own."""
        return self.sql_url if process.database_url is None else process.database_url.get_secret_value()

    @property
    def seals_files(self) -> bool:
        """Whether what is written from now on is sealed."""
        given = self.security.seal_files
        return self.security.profile is SecurityProfile.CN if given is None else given

    @property
    def sql_url(self) -> str:
        """The SQLAlchemy URL in force. Holds a password perhaps: never log it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'vitalgrid.db').resolve()}"
