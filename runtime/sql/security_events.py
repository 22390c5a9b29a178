"""Security events of devices: what doors noticed, kept for a time, found by hospital, device, kind and time. Clauses 5.4a, 9.4.

Notices come by the readings' stream, at least once; each is kept once, under its sequence there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, func, insert, select

from domain.labels import LABELS
from domain.messages import SecurityNotice
from domain.permissions import Reach
from runtime.sql.alarm_projection import move_position
from runtime.sql.engine import reading, writing
from runtime.sql.holds import held_hospitals
from runtime.sql.records import Page, page
from runtime.sql.security_tables import DETAIL_CHARS, security_events
from runtime.sql.tables import devices
from runtime.sql.within import Kind, all_at, within

logger = logging.getLogger(__name__)

POSITION: Final = "security-desk"
_CHUNK: Final = 500
_EVENTS: Final = Kind(security_events.c.hospital_id, devices.c.ward_id, all_at(LABELS["security_events"]))


@dataclass(frozen=True, slots=True)
class EventFilter:
    """None means any. Times: from <= at < until. `device`: its hospital and id."""

    hospital_id: str | None = None
    device: tuple[str, str] | None = None
    kind: str | None = None
    from_us: int | None = None
    until_us: int | None = None


def keep_notices(engine: Engine, notices: Sequence[tuple[int, SecurityNotice]], until: int) -> int:
    """Take (stream sequence, notice) pairs in, and that the stream was read up to `until`; returns how many were new."""
    with writing(engine) as connection:
        known = _known(connection, [sequence for sequence, _ in notices])
        fresh = [(sequence, notice) for sequence, notice in notices if sequence not in known]
        if fresh:
            connection.execute(insert(security_events), [_row(notice, sequence) for sequence, notice in fresh])
        move_position(connection, POSITION, until)
    return len(fresh)


def note_event(connection: Connection, notice: SecurityNotice) -> None:
    """Keep what the platform itself noticed; part of the caller's transaction."""
    connection.execute(insert(security_events).values(_row(notice, None)))


def list_events(engine: Engine, wanted: EventFilter, *, reach: Reach, limit: int, after: tuple[Any, ...] | None = None) -> Page:
    """Events within `reach`, the newest first, each with the `device_id` of its sender."""
    query = (
        select(security_events, devices.c.device_id)
        .join(devices, devices.c.handle == security_events.c.handle, isouter=True)
        .where(within(reach, _EVENTS))
    )
    for column, value in ((security_events.c.hospital_id, wanted.hospital_id), (security_events.c.kind, wanted.kind)):
        if value is not None:
            query = query.where(column == value)
    if wanted.device is not None:
        query = query.where(devices.c.hospital_id == wanted.device[0], devices.c.device_id == wanted.device[1])
    if wanted.from_us is not None:
        query = query.where(security_events.c.at_us >= wanted.from_us)
    if wanted.until_us is not None:
        query = query.where(security_events.c.at_us < wanted.until_us)
    with reading(engine) as connection:
        keys = [security_events.c.at_us, security_events.c.id]
        return page(connection, query, keys, limit=limit, after=after, descending=True)


def forget_events(engine: Engine, now_us: int, kept_us: int, most: int) -> int:
    """Delete events older than `kept_us`, and the oldest beyond `most`; returns how many went.

    Those of hospitals of which something is held stay, and do not count: a flood there costs nobody else's events.
    """
    may_go = security_events.c.hospital_id.not_in(held_hospitals(now_us))
    with writing(engine) as connection:
        gone = connection.execute(delete(security_events).where(security_events.c.at_us < now_us - kept_us, may_go)).rowcount
        too_many = connection.execute(select(func.count()).where(may_go)).scalar_one() - most
        held = connection.execute(select(func.count()).where(~may_go)).scalar_one()
        if held > most:
            logger.warning("%d security events stay for legal holds, more than the %d of all others", held, most)
        if too_many > 0:
            oldest = select(security_events.c.id).where(may_go).order_by(security_events.c.id).limit(too_many)
            gone += connection.execute(delete(security_events).where(security_events.c.id.in_(oldest))).rowcount
    return int(gone)


def _row(notice: SecurityNotice, sequence: int | None) -> dict[str, Any]:
    return {
        "at_us": notice.at_us, "kind": str(notice.kind), "hospital_id": notice.hospital_id, "handle": notice.handle,
        "door": notice.door, "address": notice.address, "count": notice.count, "detail": notice.detail[:DETAIL_CHARS],
        "stream_sequence": sequence,
    }  # fmt: skip


def _known(connection: Connection, sequences: Sequence[int]) -> set[int]:
    found: set[int] = set()
    for start in range(0, len(sequences), _CHUNK):
        some = security_events.c.stream_sequence.in_(list(sequences[start : start + _CHUNK]))
        found |= set(connection.execute(select(security_events.c.stream_sequence).where(some)).scalars())
    return found
