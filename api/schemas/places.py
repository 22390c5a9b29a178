"""Hospitals, wards and beds."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from api.times import Zone
from domain.fleet_manifest import Tier
from domain.host_orders import Placement

Name = Field(min_length=1, max_length=200)


class HospitalIn(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"id": "sz.h012", "name": "福田区人民医院", "tier": "tertiary", "beds": 1200}]},
    )
    id: str = Field(description="Region, dot, hospital; lower case.")
    name: str = Name
    tier: Tier
    beds: int = Field(ge=0, le=100_000)
    district: str | None = Field(None, max_length=64, description="Where it lies: a grant may hold in a district.")


class HospitalChange(BaseModel):
    """Fields that are left out stay."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"beds": 1300}]})
    name: str | None = Field(None, min_length=1, max_length=200)
    tier: Tier | None = None
    beds: int | None = Field(None, ge=0, le=100_000)
    district: str | None = Field(None, max_length=64)


class HospitalOut(BaseModel):
    id: str
    name: str
    tier: str
    beds: int
    district: str | None
    shard: int
    placement: Placement = Field(description="dedicated: it has a shard and a host of its own.")
    created: str
    version: int

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone) -> Self:
        return cls(**{**row, "created": zone.text(row["created_us"])})


class PlacementIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"placement": "dedicated"}]})
    placement: Placement


class PlacementOut(BaseModel):
    """What is wanted, and how far it is so. `host`: who holds its shard now; null while nobody does."""

    hospital_id: str
    placement: Placement
    shard: int
    to_shard: int | None = Field(description="The shard that it is on its way to.")
    host: str | None
    is_alone: bool = Field(description="Its host holds no other shard.")


class HandOverIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"shard": 3}]})
    shard: int = Field(ge=0, description="The shard that the hospital is to be in.")


class HandOverOut(BaseModel):
    number: int
    hospital_id: str
    from_shard: int
    to_shard: int
    state: str = Field(description="begun (both shards are told), switched (it is in the new one), settled.")
    begun: str

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone) -> Self:
        state = "settled" if row["settled_us"] else "switched" if row["switched_us"] else "begun"
        kept = ("number", "hospital_id", "from_shard", "to_shard")
        return cls(**{name: row[name] for name in kept}, state=state, begun=zone.text(row["begun_us"]))


class WardIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"id": "icu", "name": "重症医学科"}]})
    id: str
    name: str = Name


class WardChange(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "ICU, 3rd floor"}]})
    name: str = Name


class WardOut(BaseModel):
    hospital_id: str
    id: str
    name: str
    version: int


class BedIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"id": "icu-07", "ward_id": "icu"}]})
    id: str
    ward_id: str | None = None


class BedChange(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"ward_id": "icu"}]})
    ward_id: str | None


class BedOut(BaseModel):
    hospital_id: str
    id: str
    ward_id: str | None
    version: int
