"""Settings: one frozen, typed tree. Defaults < `vitalgrid.toml` < environment (`VITALGRID_DOORS__MQTT_PORT=1884`).

Its sections are in `runtime.setting_sections`. Only `cluster/` builds one; everybody else is handed plain values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from domain.retention import too_short
from runtime.outgoing_links import plain_links
from runtime.security_profile import (
    SecondFactorRule,
    SecurityProfile,
    contradictions,
    least_second_factor,
    too_lax_accounts,
)
from runtime.setting_sections import (
    ApiSettings,
    AuditSettings,
    BusSettings,
    DoorSettings,
    HostSettings,
    IntakeSettings,
    LakeSettings,
    LimitSettings,
    RetentionSettings,
    SecuritySettings,
    StorageSettings,
    WebhookSettings,
)

_OTHER_VARIABLES: Final = frozenset({"vitalgrid_token", "vitalgrid_ready_fd"})  # of commands; between processes


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
            "SQLAlchemy URL of the business database; default SQLite in `data_dir`. PostgreSQL over TCP"
            " takes `sslmode=verify-full` (in `dev` elsewhere than on this machine); a Unix socket"
            " (`?host=/run/postgresql`) does not."
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
