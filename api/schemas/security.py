"""How open to attack devices are, and what is done about it."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from api.times import Zone
from domain.exposure import Finding, findings_of


class ExposedDevice(BaseModel):
    """A row of the inventory. `seen` and what follows it: of the last time it came to a door itself."""

    hospital: str
    device_id: str
    model: str
    ward: str | None
    bed: str | None
    score: int = Field(description="0 to 100: the points of its findings, added up.")
    findings: list[str]
    is_isolated: bool
    maker: str | None
    serial: str | None
    firmware: str | None
    has_token: bool
    has_certificate: bool = Field(description="One that is good now.")
    certificate_until: str | None
    issued: str | None = Field(
        description="When the credential was issued that it came with last, if that is known; the younger of token and "
        "certificate where it came with both, or never."
    )
    seen: str | None
    door: str | None
    address: str | None
    over_tls: bool | None
    credential: str | None
    client: str | None = Field(description="What it calls itself: MQTT's client id, HTTP's User-Agent; shortened where sealed.")
    fingerprint: str | None
    changed: str | None = Field(description="When its fingerprint was another one before.")
    changes: int | None


class InventoryTable(BaseModel):
    items: list[ExposedDevice]
    as_of: str
    matched: int
    next: str | None


class FindingOut(BaseModel):
    code: str
    points: int
    says: str
    remedy: str

    @classmethod
    def of(cls, finding: Finding) -> Self:
        return cls(code=finding.code, points=finding.points, says=finding.says, remedy=finding.remedy)


class ExposureOut(BaseModel):
    device: ExposedDevice
    findings: list[FindingOut]
    fingerprint_parts: dict[str, str] | None = Field(description="What its fingerprint is made of.")
    fingerprint_parts_before: dict[str, str] | None = Field(description="… and was made of before it changed last.")
    first_seen: str | None

    @classmethod
    def of(cls, row: dict[str, Any], sighting: dict[str, Any] | None, zone: Zone) -> Self:
        shown = {name: row[name] for name in ExposedDevice.model_fields if name in row}
        bits, seen = row["findings"], sighting or {}
        shown |= {name: zone.maybe(row[f"{name}_us"]) for name in ("certificate_until", "issued", "seen", "changed")}
        return cls(
            device=ExposedDevice(**shown | {"findings": [finding.code for finding in findings_of(bits)]}),
            findings=[FindingOut.of(finding) for finding in findings_of(bits)],
            fingerprint_parts=seen.get("parts"), fingerprint_parts_before=seen.get("parts_before"),
            first_seen=zone.maybe(seen.get("first_us")),
        )  # fmt: skip


class RotationIn(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"hospital_id": "sz.h012", "device_ids": ["mon-7", "pump-3"]}]}
    )
    hospital_id: str
    device_ids: list[str] = Field(min_length=1, max_length=1000)
    even_on_patients: bool = Field(False, description="Cut off those too that are on a patient, or carry what is.")


class RotatedOut(BaseModel):
    device_id: str
    token: str = Field(description="Shown this once. The old one has stopped working.")
