"""Where streams begin, or go on, when their files were lost or damaged: behind all that was taken of them.

Lake, snapshots, alarm desk and access log remember how far they have come as sequences of a stream. A new stream that
began at 1 would be taken for what they have already, and everything it brought until it caught up would be passed over
in silence.
It begins one further still: so hosts see that something is missing between their state and the stream, and ask for the
directory. A stream whose end was lost (a damaged block: the server drops what lies behind the damage) would go on with
sequences that were taken already; it is led on to where it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from domain import subjects
from domain.errors import IntegrityViolation, StorageFull
from runtime.bus import Bus
from runtime.lake import Lake
from runtime.log_events import taken_of_stream
from runtime.snapshots import SnapshotStore
from runtime.sql.alarm_projection import position_of
from runtime.sql.security_events import POSITION as SECURITY_DESK

logger = logging.getLogger(__name__)

_FILLERS_AT_ONCE: Final = 256


def stream_beginnings(lake: Lake, snapshots: SnapshotStore, engine: Engine, audit_dir: Path) -> dict[str, int]:
    """First sequence of each stream, should it be made now. Raises Unavailable."""
    taken = taken_of_streams(lake, snapshots, engine, audit_dir)
    readings = taken[subjects.READINGS_STREAM]
    return {stream: sequence + 1 for stream, sequence in taken.items()} | {
        subjects.READINGS_STREAM: readings + 2 if readings else 1
    }


def taken_of_streams(lake: Lake, snapshots: SnapshotStore, engine: Engine, audit_dir: Path) -> dict[str, int]:
    """The furthest sequence of each stream that anybody remembers to have taken. Raises Unavailable."""
    return {
        subjects.READINGS_STREAM: max(
            [snapshots.highest_sequence(), position_of(engine, SECURITY_DESK), *lake.positions().positions.values()]
        ),
        subjects.ALARMS_STREAM: position_of(engine),
        subjects.AUDIT_STREAM: _taken_of_audit(audit_dir),
    }


def _taken_of_audit(audit_dir: Path) -> int:
    """What the access log has. One that is damaged must not keep the wards' platform from starting: it says so itself."""
    try:
        return taken_of_stream(audit_dir)
    except (IntegrityViolation, StorageFull) as error:
        logger.error("the access log cannot say how far it has come: %s", error)
        return 0


async def lead_on_streams(bus: Bus, taken: Mapping[str, int]) -> list[str]:
    """Lead streams that end before what was taken of them to where they were; their names. Before anything is published.

    Readings that remain may be wanted still, so the gap is filled; what remains of others has been taken, and goes.
    """
    short = []
    for stream, sequence in taken.items():
        last = (await bus.stream_state(stream)).last_sequence
        if last >= sequence:
            continue
        short.append(stream)
        logger.error(
            "the end of a stream is lost: its files were damaged; messages that nobody had taken yet are gone",
            extra={"stream": stream, "ends_at": last, "taken_until": sequence},
        )
        if stream == subjects.READINGS_STREAM:
            await _fill(bus, last, sequence)
        else:
            await bus.purge(stream, sequence + 1)
    return short


async def _fill(bus: Bus, last: int, until: int) -> None:
    for start in range(last + 1, until + 1, _FILLERS_AT_ONCE):
        numbers = range(start, min(start + _FILLERS_AT_ONCE, until + 1))
        await asyncio.gather(*(bus.publish(subjects.LOST, b"", f"lost-{until}-{number}") for number in numbers))
