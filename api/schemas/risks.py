"""The register of risks as it is shown and changed."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from api.masks import MaskedText, shown_text
from api.times import Rfc3339, Zone
from domain.labels import LABELS
from domain.risks import RiskState

_Points = Field(ge=1, le=5)


class RiskIn(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{
                "title": "Displays in corridors show names", "measure": "Turn them, or mask", "kind": "patients",
                "owner": "privacy-officer", "likelihood": 3, "severity": 3,
            }]
        },
    )  # fmt: skip
    title: str = Field(min_length=1, max_length=1000, description="What may happen. No word of a patient.")
    measure: str = Field(min_length=1, max_length=1000, description="What is done about it.")
    kind: str = Field(max_length=64, description="The class of records that is at risk.")
    owner: str = Field(min_length=1, max_length=64, description="Who sees to the measure: a role, or a user.")
    likelihood: int = _Points
    severity: int = _Points


class RiskChange(BaseModel):
    """What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"state": "measure-in-force", "owner": "li.na"}]})
    state: RiskState | None = None
    owner: str | None = Field(None, min_length=1, max_length=64)
    measure: str | None = Field(None, min_length=1, max_length=1000)
    accepted_until: Rfc3339 | None = Field(None, description="Until when it is accepted; the reason is X-Reason.")
    likelihood: int | None = Field(None, ge=1, le=5, description="Of one that was entered by hand.")
    severity: int | None = Field(None, ge=1, le=5, description="Of one that was entered by hand.")


class RiskOut(BaseModel):
    id: int
    rule: str | None = Field(description="The rule that found it; null: it was entered by hand.")
    subject: str = Field(description="Whom it is about: a user or a service; empty: the platform.")
    title: MaskedText
    measure: MaskedText
    kind: str = Field(description="The class of records that is at risk.")
    level: int = Field(description="Of that class: 1 to 5 of GB/T 39725.")
    owner: str
    likelihood: int
    severity: int
    risk: int = Field(description="Likelihood by severity.")
    evidence: dict[str, int]
    state: RiskState
    found: str
    seen: str = Field(description="When its evidence was last another.")
    accepted_until: str | None
    version: int

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone) -> Self:
        until = row["accepted_until_us"]
        shown = {name: row[name] for name in cls.model_fields if name in row} | {
            "title": shown_text(row["title"]), "measure": shown_text(row["measure"]),
        }  # fmt: skip
        return cls(
            **shown, level=LABELS[row["kind"]], risk=row["likelihood"] * row["severity"], found=zone.text(row["found_us"]),
            seen=zone.text(row["seen_us"]), accepted_until=None if until is None else zone.text(until),
        )  # fmt: skip


class RiskEventOut(BaseModel):
    time: str
    who: str
    event: str
    state: RiskState
    likelihood: int
    severity: int
    note: MaskedText

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone) -> Self:
        shown = {name: row[name] for name in cls.model_fields if name in row} | {"note": shown_text(row["note"])}
        return cls(**shown, time=zone.text(row["at_us"]))


class RiskWithHistory(BaseModel):
    risk: RiskOut
    history: list[RiskEventOut]


class LookedFor(BaseModel):
    changed: int = Field(description="Entries of the register that are others than before.")
