"""Certificates with which programs of hospitals come to the bus."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from api.times import Zone
from domain.enrolment import MAX_REQUEST_BYTES
from domain.hospital_systems import asks_on, heard_by, inbox_of

_EXAMPLE = "-----BEGIN CERTIFICATE REQUEST-----\n...\n-----END CERTIFICATE REQUEST-----\n"


class BusCertificateIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"request": _EXAMPLE}]})
    request: str = Field(
        min_length=1, max_length=MAX_REQUEST_BYTES, description="PKCS #10, PEM, as `openssl req -new` makes it."
    )


class BusCertificateOut(BaseModel):
    id: int
    hospital_id: str
    state: Literal["good", "asked", "ended", "revoked"] = Field(description="`asked`: it is signed within seconds.")
    made: str
    made_by: str
    until: str | None
    revoked: str | None
    fingerprint: str | None = Field(description="SHA-256 of its DER.")
    certificate: str | None = Field(description="PEM, with the authority that signed it, by which the bus is known too.")
    asks: str = Field(description="Subject on which alarms are asked for.")
    hears: str = Field(description="Subject on which they come.")
    inbox: str = Field(description="Prefix of subjects for answers.")

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone, now_us: int) -> Self:
        hospital_id, number = row["hospital_id"], row["id"]
        return cls(
            id=number, hospital_id=hospital_id, state=_state(row, now_us), made=zone.text(row["made_us"]),
            made_by=row["made_by"], until=zone.maybe(row["ends_us"]), revoked=zone.maybe(row["revoked_us"]),
            fingerprint=row["fingerprint"], certificate=row["certificate"],
            asks=asks_on(hospital_id, number), hears=heard_by(hospital_id, number), inbox=inbox_of(number),
        )  # fmt: skip


class RevokedSoon(BaseModel):
    detail: str = Field(description="Why the bus may still let it in. It is told again every two seconds.")


def _state(row: dict[str, Any], now_us: int) -> Literal["good", "asked", "ended", "revoked"]:
    if row["revoked_us"] is not None:
        return "revoked"
    if row["certificate"] is None:
        return "asked"
    return "good" if row["ends_us"] > now_us else "ended"
