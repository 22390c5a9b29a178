"""Events of the access log as they are shown."""

from __future__ import annotations

import base64
from typing import Any, Self

import msgspec
from pydantic import BaseModel, Field

from api.masks import MaskedText, shown_text
from api.times import Zone
from domain.audit_reading import said
from domain.log_entries import read_entry
from runtime.log_events import Event
from runtime.sealing import Sealer
from runtime.sql.sealed import reason_shown


class AuditEventOut(BaseModel):
    index: int = Field(description="Of its entry in the access log: `/log/entries/{index}/proof` proves that it is in it.")
    time: str
    who: str | None
    what: str | None
    why: MaskedText
    event: Any = Field(
        description="FHIR R4 AuditEvent (IHE BALP), reasons in it sealed; null when it was taken away, and its entry remains."
    )
    event_bytes: str | None = Field(description="The event byte for byte, base64: SHA-256 of salt and it is the commitment.")
    salt: str | None = Field(description="Base64.")
    commitment: str = Field(description="What the entry holds of the event. Base64.")

    @classmethod
    def of(cls, kept: Event, zone: Zone, sealer: Sealer) -> Self:
        entry = read_entry(kept.entry)
        line = None if kept.event is None else said(kept.event)
        why = None if line is None else reason_shown(sealer, line, entry.at_us)
        return cls(
            index=kept.at, time=zone.text(entry.at_us), commitment=entry.commitment, event=_decoded(kept.event),
            who=line and line.who, what=line and line.what, why=shown_text(why),
            event_bytes=_base64(kept.event), salt=_base64(kept.salt),
        )  # fmt: skip


class AccessOut(BaseModel):
    """An access as its patient is told of it."""

    time: str
    who: str
    what: str
    why: MaskedText

    @classmethod
    def of(cls, kept: Event, zone: Zone, sealer: Sealer) -> Self | None:
        """None for an event that nothing can be said of."""
        line = None if kept.event is None else said(kept.event)
        if line is None:
            return None
        at_us = read_entry(kept.entry).at_us
        return cls(time=zone.text(at_us), who=line.who, what=line.what, why=shown_text(reason_shown(sealer, line, at_us)))


def _base64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _decoded(event: bytes | None) -> Any:
    try:
        return None if event is None else msgspec.json.decode(event)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
