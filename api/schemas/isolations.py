"""Devices that are cut off, and how that is ordered and undone."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from api.masks import MaskedText, shown_text
from api.times import Zone


class IsolationIn(BaseModel):
    """The reason is in X-Reason."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"confirmed_by": "li.na"}, {}]})
    confirmed_by: str | None = Field(
        None, max_length=64,
        description="User name of a doctor, nurse or head of the ward who knows. Needed where a patient is on the device, or "
        "on what it carries; the alarm says it.",
    )  # fmt: skip
    revoke_credentials: bool = Field(
        False,
        description="They were stolen: its token, its certificates and its claim codes end for good, and after the release the "
        "device needs new ones.",
    )


class IsolationOut(BaseModel):
    id: int
    hospital_id: str
    device_id: str
    device_handle: int
    ward_id: str | None
    bed_id: str | None
    model: str
    isolated: str
    isolated_by: str
    reason: MaskedText
    patients: int = Field(description="How many were on it, or on what it carries, when it was isolated.")
    confirmed_by: str | None
    credentials_revoked: bool
    released: str | None
    released_by: str | None
    release_reason: MaskedText

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone) -> Self:
        shown = {name: row[name] for name in cls.model_fields if name in row}
        texts = {name: shown_text(row[name]) for name in ("reason", "release_reason")}
        return cls(**shown | texts, isolated=zone.text(row["isolated_us"]), released=zone.maybe(row["released_us"]))
