"""Tokens of people and programs, and the write log."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from api.auth import Role
from api.times import Zone


class TokenIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "ward-display-3"}]})
    name: str = Field(min_length=1, max_length=200, description="Of the person or program; stands in the write log.")
    role: Role = Role.ADMINISTRATOR


class TokenMade(BaseModel):
    name: str
    role: Role
    token: str = Field(description="Shown this once.")


class WriteOut(BaseModel):
    id: int
    time: str
    who: str
    action: str
    target: str
    reason: str | None

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone) -> Self:
        return cls(
            id=row["id"], time=zone.text(row["at_us"]), who=row["who"], action=row["action"], target=row["target"],
            reason=row["reason"],
        )  # fmt: skip
