"""Tokens of people and programs, and the write log."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from api.masks import MaskedText, shown_note, shown_text
from api.readable import readable
from api.times import Zone
from domain.permissions import View
from domain.principals import Role


class TokenIn(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "ward-display-3", "role": "station", "place": "sz.h012/icu"}]}
    )
    name: str = Field(min_length=1, max_length=200, description="Of the program; stands in the write log. Without ':' and '/'.")
    role: Role = Field(description="A program's: of people's roles (doctor, nurse, …) there are users.")
    place: str | None = Field(
        None, max_length=131, description="Region, district, hospital or ward; left out for roles of the region alone."
    )


class TokenMade(BaseModel):
    name: str
    role: Role
    place: str
    token: str = Field(description="Shown this once.")


class TokenOut(BaseModel):
    name: str
    role: str
    place: str
    created: str
    revoked: str | None
    last_used: str | None

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone, region_id: str) -> Self:
        return cls(
            name=row["name"], role=row["role"], place=row["place"] or region_id, created=zone.text(row["created_us"]),
            revoked=zone.maybe(row["revoked_us"]), last_used=zone.maybe(row["last_used_us"]),
        )  # fmt: skip


class ExportOut(BaseModel):
    """What left the platform: of which handles (null: not limited to some), from which version of the lake."""

    id: int
    time: str
    who: str
    lake_version: int
    handles: list[int] | None
    start: str | None
    until: str | None
    query: dict[str, Any]

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone) -> Self:
        shown = {name: row[name] for name in ("id", "who", "lake_version", "handles", "query")}
        return cls(**shown, time=zone.text(row["at_us"]), start=zone.maybe(row["from_us"]), until=zone.maybe(row["until_us"]))


class WriteOut(BaseModel):
    id: int
    time: str
    who: str
    action: str
    target: str
    reason: MaskedText
    detail: dict[str, Any] | None = Field(description="What was changed; never names of people.")

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone, view: View) -> Self:
        detail = row["detail"]
        if detail and detail.get("note") is not None:  # of an alarm's answer
            detail = detail | {"note": shown_note(detail["note"], view)}
        return cls(
            id=row["id"], time=zone.text(row["at_us"]), who=row["who"], action=row["action"], target=row["target"],
            reason=shown_text(row["reason"]), detail=readable(detail, zone),
        )  # fmt: skip
