"""Where streams begin when they have to be made anew, because their files were lost: behind all that was taken of the old.

Lake, snapshots and alarm desk remember how far they have come as sequences of a stream. A new stream that began at 1
would be taken for what they have already, and everything it brought until it caught up would be passed over in silence.
It begins one further still: so hosts see that something is missing between their state and the stream, and ask for the
directory.
"""

from __future__ import annotations

from sqlalchemy import Engine

from domain import subjects
from runtime.lake import Lake
from runtime.snapshots import SnapshotStore
from runtime.sql.alarm_projection import position_of


def stream_beginnings(lake: Lake, snapshots: SnapshotStore, engine: Engine) -> dict[str, int]:
    """First sequence of each stream, should it be made now. Raises Unavailable."""
    taken = max([snapshots.highest_sequence(), *lake.positions().positions.values()])
    return {subjects.READINGS_STREAM: taken + 2 if taken else 1, subjects.ALARMS_STREAM: position_of(engine) + 1}
