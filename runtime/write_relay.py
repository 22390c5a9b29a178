"""Carries the write log to the access log: each row once, in order, within a second of its write.

A row is written in the transaction of the change that it tells of, so that no change is without one; whatever stops
the relay in between, it goes on behind the last row that it knows to be in the stream. Clause 9.3e.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from typing import Final

import msgspec
from sqlalchemy import Engine

from domain import subjects
from domain.accesses import write_event
from domain.log_entries import WRITES, LogRecord
from runtime.batches import NewMessage
from runtime.outbox_relay import Publisher, carry_for_ever
from runtime.sql.records import Row
from runtime.sql.write_log import mark_told, untold_writes

logger = logging.getLogger(__name__)

SOURCE: Final = WRITES
_LOOK_S: Final = 0.5
_AT_ONCE: Final = 500
_DIGEST_CHARS: Final = 16
_encoder: Final = msgspec.json.Encoder(order="sorted")


class WriteRelay:
    """One relay a database. `site` is the region whose platform tells it."""

    def __init__(self, engine: Engine, publisher: Publisher, site: str) -> None:
        self._engine = engine
        self._publisher = publisher
        self._site = site

    async def run(self) -> None:
        """Carry for ever; a bus or database that is away is waited for."""
        await carry_for_ever(self.relay, _AT_ONCE, "writes for the access log", look_s=_LOOK_S)

    async def relay(self) -> int:
        """Carry what waits now; returns how many. Raises Unavailable, with all of it still waiting."""
        rows = await asyncio.to_thread(untold_writes, self._engine, _AT_ONCE)
        if rows:
            await self._publisher.publish_all([_message(row, self._site) for row in rows])
            await asyncio.to_thread(mark_told, self._engine, rows[-1]["id"])
        return len(rows)


def record_of(row: Row, site: str) -> bytes:
    """A row of the write log as a record: always the same bytes, so that one told twice is known again.

    Of any row there is one, else it would hold up all that come behind it. What UTF-8 cannot hold is spelled out.
    """
    try:
        event = write_event(row, site)
    except (ValueError, RecursionError):
        event = write_event({name: _spelled(value) for name, value in row.items()}, site)
    return _encoder.encode(LogRecord(f"w-{row['id']}", row["at_us"], SOURCE, row["id"], msgspec.Raw(event)))


def _message(row: Row, site: str) -> NewMessage:
    """Its id names what it says too: a database that lost its newest rows gives their ids again, to other writes."""
    payload = record_of(row, site)
    digest = hashlib.sha256(payload).hexdigest()[:_DIGEST_CHARS]
    return NewMessage(subjects.audit(SOURCE), payload, f"w-{row['id']}-{digest}")


def _spelled(value: object) -> object:
    """A text that can be encoded; of what has parts their JSON, as a text too."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value if value is None or isinstance(value, int) else json.dumps(value, sort_keys=True)
