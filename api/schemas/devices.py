"""Devices, their registration and import, their live state."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from api.times import Zone
from domain.labels import label_of
from domain.permissions import Level
from runtime.sql.devices import NewDevice, RowReport

_EXAMPLE: Final[dict[str, Any]] = {
    "hospital_id": "sz.h012", "device_id": "mon-7", "model": "monitor", "ward_id": "icu", "bed_id": "icu-07",
    "with_token": True,
}  # fmt: skip
CSV_EXAMPLE: Final = "device_id,model,ward_id,bed_id,gateway_id,with_token\nmon-7,monitor,icu,icu-07,,true\n"
IMPORT_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "text/csv": {"schema": {"type": "string"}, "example": CSV_EXAMPLE},
            "application/json": {
                "schema": {"type": "array", "items": {"type": "object"}},
                "example": [{name: value for name, value in _EXAMPLE.items() if name != "hospital_id"}],
            },
        },
    }
}


class DeviceIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})
    hospital_id: str
    device_id: str = Field(description="Unique in the hospital: 1 to 64 letters, digits, '_' or '-'.")
    model: str = Field(description="Thing model: `monitor@1`, or `monitor` for its latest version.")
    ward_id: str | None = Field(None, max_length=64)
    bed_id: str | None = Field(None, max_length=64)
    gateway_id: str | None = Field(None, description="The gateway device that carries this one.")
    with_token: bool = Field(False, description="The device connects by itself and is given a token.")
    attributes: dict[str, Any] = Field({}, description="Serial number and the like.")

    def to_new(self) -> NewDevice:
        return NewDevice(**self.model_dump(exclude={"hospital_id"}))


class DeviceChange(BaseModel):
    """Fields that are left out stay. Attributes are replaced as a whole."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"ward_id": "icu", "bed_id": "icu-08"}, {"status": "maintenance"}]}
    )
    ward_id: str | None = Field(None, max_length=64)
    bed_id: str | None = Field(None, max_length=64)
    status: Literal["in-use", "maintenance"] = "in-use"
    needs_certificate: bool = Field(False, description="Its token alone opens nothing: it has to show a certificate.")
    attributes: dict[str, Any] = {}
    level: int | None = Field(None, ge=2, le=5, description="How sensitive; null: as every device (2).")


class DeviceOut(BaseModel):
    hospital_id: str
    device_id: str
    handle: int
    model: str
    ward_id: str | None
    bed_id: str | None
    gateway_handle: int | None
    status: str
    level: int = Field(description="How sensitive what is known of the device is (GB/T 39725); its readings are 3 at least.")
    has_token: bool
    needs_certificate: bool
    attributes: dict[str, Any]
    created: str
    version: int

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone) -> Self:
        shown = {name: row[name] for name in cls.model_fields if name in row} | {
            "level": label_of("devices", row["level"]) or Level.STRICT
        }
        return cls(**shown, has_token=row["token_digest"] is not None, created=zone.text(row["created_us"]))


class DeviceRegistered(BaseModel):
    device: DeviceOut
    token: str | None = Field(description="Shown this once.")


class TokenOut(BaseModel):
    token: str = Field(description="Shown this once. The old one has stopped working.")


class DeviceShown(BaseModel):
    """`live` is what the shard's host holds now; null with `live_unavailable` when it does not answer."""

    device: DeviceOut
    is_isolated: bool = Field(description="Cut off by order: what it says is refused.")
    live: dict[str, Any] | None
    live_unavailable: str | None = None


class RowOut(BaseModel):
    row: int = Field(description="Counted from 1, without the header.")
    device_id: str
    handle: int | None
    token: str | None
    error: str | None

    @classmethod
    def of(cls, report: RowReport) -> Self:
        return cls(row=report.row, device_id=report.device_id, handle=report.handle, token=report.token, error=report.error)


class ImportReport(BaseModel):
    dry_run: bool
    rows: int
    accepted: int
    refused: int
    reports: list[RowOut]

    @classmethod
    def of(cls, reports: list[RowReport], *, dry_run: bool) -> Self:
        refused = sum(report.error is not None for report in reports)
        return cls(
            dry_run=dry_run, rows=len(reports), accepted=len(reports) - refused, refused=refused,
            reports=[RowOut.of(report) for report in reports],
        )  # fmt: skip
