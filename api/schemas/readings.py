"""Freshness, and how tables of readings look in JSON (for the documentation; rows are written by columns)."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

_TRACE = "There with `with=trace`: `GET /traces/{trace}` follows the message that brought the reading."


class DeviceFreshness(BaseModel):
    device_id: str
    handle: int
    state: str = Field(description="`live`, `stale`, `silent` or `never`.")
    expected_per_min: float
    received_per_min: float
    last_arrival: str | None
    clock_offset_s: float = Field(description="Added to the event times that it sends: below 0 its clock is ahead.")


class Freshness(BaseModel):
    hospital_id: str
    devices: int
    states: dict[str, int]
    expected_per_min: float
    received_per_min: float
    clocks_off: int = Field(description="Senders whose clock is off by more than 5 s; their readings are corrected.")
    incomplete_shards: list[int] = Field(description="Hosts of these did not answer.")
    items: list[DeviceFreshness]
    next: str | None = None

    @classmethod
    def nothing(cls, hospital_id: str, incomplete: list[int]) -> Self:
        return cls(
            hospital_id=hospital_id, devices=0, states={}, expected_per_min=0, received_per_min=0, clocks_off=0,
            incomplete_shards=incomplete, items=[],
        )  # fmt: skip


class ReadingRow(BaseModel):
    hospital: str | None
    device_id: str | None
    patient_key: str | None = Field(description="Of a patient's own handle (entered and derived values), or of the join.")
    handle: int
    metric: str
    instance: int
    time: str
    value: float | None = Field(description="In `unit`; null where nothing was measured.")
    unit: str | None
    validity: str
    mode: str
    origin: str
    marks: list[str]
    quality: int
    raw_value: float | None
    raw_unit: str | None
    source: int
    sequence: int
    arrival: str
    clock_offset_us: int = Field(description="Added to `time`, which stays as sent, to find whose the reading was.")
    clock_uncertainty_us: int = Field(description="How far that may be wrong, beyond what a device's clock always may.")
    trace: str = Field("", description=_TRACE)


class ReadingTable(BaseModel):
    items: list[ReadingRow]
    next: str | None
    lake_version: int | None
    incomplete_shards: list[int] = Field(description="Hosts of these did not answer: their last seconds may be missing.")


class JoinedRow(ReadingRow):
    ambiguous: bool


class JoinedTable(ReadingTable):
    items: list[JoinedRow]  # type: ignore[assignment]  # the same rows with one column more


class LatestRow(BaseModel):
    hospital: str | None
    device_id: str | None
    patient_key: str | None
    handle: int
    metric: str
    instance: int
    time: str
    value: float | None
    unit: str | None
    validity: str
    mode: str
    origin: str
    marks: list[str]
    quality: int
    state: str
    arrival: str
    trace: str = Field("", description=_TRACE)


class LatestTable(BaseModel):
    items: list[LatestRow]
    next: str | None
    lake_version: None
    incomplete_shards: list[int]


class BucketRow(BaseModel):
    hospital: str | None
    metric: str
    unit: str | None
    bucket: str = Field(description="Start.")
    count: int
    min: float
    max: float
    mean: float
    last: float
    last_time: str


class BucketTable(BaseModel):
    items: list[BucketRow]
    next: None
    lake_version: int
    incomplete_shards: list[int]
    bucket_s: int
    is_cut: bool = Field(description="There were more than `limit`.")
