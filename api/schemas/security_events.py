"""Security events of devices as they are shown."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, Field

from api.times import Zone


class SecurityEventOut(BaseModel):
    id: int
    time: str
    kind: str
    hospital_id: str
    device_id: str | None = Field(description="The true sender: whose credential it was, whatever it claimed.")
    handle: int
    door: str
    address: str | None = Field(description="Where it spoke from.")
    count: int = Field(description="How often since the event of the kind before.")
    detail: str

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone) -> Self:
        shown = {name: row[name] for name in cls.model_fields if name != "time"}
        return cls(time=zone.text(row["at_us"]), **shown)
