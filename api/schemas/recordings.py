"""Recordings of the stream of readings: what is asked for, and what may not be in one."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

MAX_DURATION_S: Final = 86_400
_LEFT_OUT: Final = "Handles of devices and patients of whom not every reading is yours to see: leave their readings out."


class RecordingIn(BaseModel):
    """The reason is in X-Reason."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"hospital_id": "sz.h012", "duration_s": 60}]})
    hospital_id: str | None = Field(None, max_length=65, description="Of this hospital alone; of the region, if left out.")
    duration_s: float = Field(gt=0, le=MAX_DURATION_S, description="How long it is to go on, from now.")


class RecordingOut(BaseModel):
    id: int = Field(description="Of the export that it is noted as.")
    until: str
    left_out_handles: list[int] = Field(description=_LEFT_OUT)


class LeftOut(BaseModel):
    left_out_handles: list[int] = Field(description=_LEFT_OUT)
