"""What devices prove with who they are, as the API shows and gives it."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import BaseModel, Field

from api.times import Zone

IDS_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "text/csv": {"schema": {"type": "string"}, "example": "device_id\nmon-7\nmon-8\n"},
            "application/json": {"schema": {"type": "array", "items": {"type": "string"}}, "example": ["mon-7", "mon-8"]},
        },
    }
}
ZIP_ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "`<device id>.pem` for each device: its certificate, the chain and its key; `report.csv` on every row.",
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class CredentialOut(BaseModel):
    id: str = Field(description="`token`, `certificate-<n>` or `claim-code-<n>`.")
    kind: Literal["token", "certificate", "claim-code"]
    state: Literal["good", "ended", "replaced", "revoked", "used"]
    made: str | None = Field(description="Null for a token of before this was kept.")
    made_by: str | None = Field(description="Who made it; a device, for what it claimed or renewed by itself.")
    until: str | None = Field(description="When it is good no more; null for a token, which does not end by itself.")
    last_used: str | None = Field(description="At a door, to the hour; of a claim code when it was used.")
    fingerprint: str | None = Field(None, description="Of a certificate: SHA-256 of its DER.")
    serial: str | None = Field(None, description="Of a certificate, hexadecimal.")

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone, now_us: int) -> Self:
        def text(name: str) -> str | None:
            return None if row.get(name) is None else zone.text(row[name])

        return cls(
            id=row["id"], kind=row["kind"], state=_state(row, now_us), made=text("made_us"), made_by=row["made_by"],
            until=text("until_us") or text("ends_us"), last_used=text("last_used_us"), fingerprint=row.get("fingerprint"),
            serial=row.get("serial"),
        )  # fmt: skip


def _state(row: dict[str, Any], now_us: int) -> Literal["good", "ended", "replaced", "revoked", "used"]:
    if row.get("revoked_us") is not None:
        return "revoked"
    if row.get("used_us") is not None:
        return "used"
    ends_us = row.get("ends_us")
    until_us = row.get("until_us", ends_us)
    if until_us is None or until_us > now_us:
        return "good"
    return "ended" if until_us == ends_us else "replaced"


class ClaimCodeOut(BaseModel):
    device_id: str
    claim_code: str = Field(description="Shown this once. A code that the device had before is good no more.")
    until: str


class EnrolledRow(BaseModel):
    row: int = Field(description="Counted from 1, without the header.")
    device_id: str
    claim_code: str | None
    error: str | None


class EnrolmentReport(BaseModel):
    rows: int
    accepted: int
    refused: int
    until: str
    reports: list[EnrolledRow]
