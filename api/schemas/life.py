"""Retention, legal holds and erasure as they are asked for and shown."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from api.masks import MaskedText, shown_text
from api.times import Rfc3339, Zone
from domain.erasures import Held, State, Step
from runtime.retention import Kept


class RuleOut(BaseModel):
    kind: str = Field(description="A table, a stream, the lake (`readings`), or files.")
    keeps: str = Field(description="How long.")
    days: float | None = Field(description="The same, where a setting says so.")
    least_days: int = Field(description="What the law wants at least; 0: nothing.")
    why: str
    end: str = Field(description="What becomes of it then.")
    rows: int | None = Field(description="How many there are; null where nobody counts.")
    oldest: str | None
    next: str | None = Field(description="When the next one goes, if nothing holds it.")

    @classmethod
    def of(cls, kept: Kept, zone: Zone) -> Self:
        return cls(
            kind=kept.kind, keeps=kept.how_long, days=kept.days, least_days=kept.least_days, why=kept.why, end=kept.end,
            rows=kept.rows, oldest=zone.maybe(kept.oldest_us), next=zone.maybe(kept.next_us),
        )  # fmt: skip


class HoldIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"kind": "hospital", "target": "sz.h012"}]})
    kind: Held
    target: str = Field(max_length=131, description="A patient's key, `hospital/device`, or a hospital.")
    until: Rfc3339 | None = Field(None, description="Until it is lifted, if left out.")


class HoldOut(BaseModel):
    id: int
    kind: Held
    target: str
    hospital_id: str
    who: str
    reason: MaskedText
    since: str
    until: str | None
    lifted: str | None
    lifted_by: str | None
    too_late_for: list[int] = Field(
        description="When it is added: erasures of the hospital's patients that run already, which it does not stop."
    )

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone) -> Self:
        shown = {name: row[name] for name in ("id", "kind", "target", "hospital_id", "who", "lifted_by")}
        times = {
            "since": zone.text(row["from_us"]),
            "until": zone.maybe(row["until_us"]),
            "lifted": zone.maybe(row["lifted_us"]),
        }
        return cls(**shown, **times, reason=shown_text(row["reason"]), too_late_for=row.get("too_late_for", []))


class HoldsErasure(BaseModel):
    id: int
    until: str | None = Field(description="Null: until it is lifted.")


class ErasureOut(BaseModel):
    """What became of the newest request about a patient."""

    id: int
    patient_key: str
    state: State = Field(description="`restricted`: refused for now, and the records are served to nobody meanwhile.")
    who: str
    reason: MaskedText = Field(description="Null once the person is erased.")
    requested: str
    due: str = Field(description="When its job begins, if no hold stands then. It may be withdrawn until then.")
    refused_until: str | None = Field(description="Until when the law wants the record kept; null: no longer.")
    holds: list[HoldsErasure] = Field(description="Legal holds that stand in its way.")
    step: Step | None = Field(description="What its job does now.")
    done: dict[str, Any] = Field(description="What its steps did.")
    begun: str | None
    ended: str | None

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone) -> Self:
        return cls(
            **{name: row[name] for name in ("id", "patient_key", "state", "who", "step")},
            reason=shown_text(row["reason"]), requested=zone.text(row["requested_us"]), due=zone.text(row["due_us"]),
            refused_until=zone.maybe(row["refused_until_us"]), done=row["counts"], begun=zone.maybe(row["begun_us"]),
            holds=[HoldsErasure(id=hold["id"], until=zone.maybe(hold["until_us"])) for hold in row["holds"]],
            ended=zone.maybe(row["ended_us"]),
        )  # fmt: skip


class CertificateOut(BaseModel):
    """A certificate of erasure with what proves it: `vitalgrid log verify-certificate` takes this document."""

    certificate: str = Field(description="A signed note: a line a fact, then the signatures (Ed25519 and SM2).")
    event: str = Field(description="The write that the access log has of it, base64. It names the certificate's SHA-256.")
    salt: str = Field(description="Base64.")
    entry: str = Field(description="The log's entry of it, base64: a commitment to salt and event.")
    proof: str = Field(description="That the entry is in the log (c2sp.org/tlog-proof).")
    vkeys: list[str] = Field(description="Keys that certificates are signed with; compare them with what the owner says.")
