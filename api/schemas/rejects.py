"""Refused messages and their repair."""

from __future__ import annotations

import base64
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from api.times import Zone
from runtime.rejects import KeptReject

_TEXT_CHARS = 20_000


class RejectOut(BaseModel):
    sequence: int
    reject_id: str
    reason: str
    detail: str
    door: str
    principal: str | None
    hospital_id: str | None
    topic: str | None
    received: str
    payload_bytes: int
    resubmitted_as: str | None = Field(description="Receipt of the repaired message, when there is one.")
    resubmitted_by: str | None

    @classmethod
    def of(cls, kept: KeptReject, answer: dict[str, Any] | None, zone: Zone, **more: str | None) -> Self:
        reject = kept.reject
        return cls(
            sequence=kept.sequence, reject_id=reject.reject_id, reason=reject.reason, detail=reject.detail,
            door=reject.door, principal=reject.principal, hospital_id=reject.hospital_id, topic=reject.topic,
            received=zone.text(reject.received_us), payload_bytes=len(reject.payload),
            resubmitted_as=answer["receipt"] if answer else reject.resubmitted_as,
            resubmitted_by=answer["who"] if answer else None, **more,
        )  # fmt: skip


class RejectShown(RejectOut):
    payload_base64: str
    payload_text: str | None = Field(description="The payload as UTF-8 text, where it is text.")

    @classmethod
    def shown(cls, kept: KeptReject, answer: dict[str, Any] | None, zone: Zone) -> Self:
        payload = kept.reject.payload
        return cls.of(kept, answer, zone, payload_base64=base64.b64encode(payload).decode(), payload_text=_text_of(payload))


def _text_of(payload: bytes) -> str | None:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return None
    return text[:_TEXT_CHARS] if text.isprintable() or text.translate({9: None, 10: None, 13: None}).isprintable() else None


class ResubmitIn(BaseModel):
    """The repaired payload, as text or as base64; without either the old one is tried again."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"payload_text": '{"metric": "heart_rate", "value": 72, "unit": "/min"}'},
                {"device": "sz.h012/mon-7", "format": "readings"},
            ]
        },
    )  # fmt: skip
    payload_text: str | None = None
    payload_base64: str | None = None
    device: str | None = Field(None, description="`hospital/device` that the message is of, where the sender was unknown.")
    format: str | None = Field(
        None, description="`readings`, `thingsboard`, `frame` or `event`; that of its topic, if left out."
    )
