"""Hand-overs of hospitals between shards, step by step, so that one that was interrupted goes on; decision 0014.

Begun: both shards are to be told, by the outbox. Switched: the stream has told them, and from now on the directory says
the new shard; doors and readers follow. Settled: nobody can send to the old shard any more, and it is told so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, bindparam, insert, select, update

from domain import subjects
from domain.errors import Conflict, NotFound
from domain.messages import HandOver, HandOverStep, encode
from runtime.sql.engine import reading, writing
from runtime.sql.records import Author, Row, log_write, shard_of
from runtime.sql.tables import hand_overs, hospitals, outbox

_EVER_OF: Final = select(hand_overs.c.from_shard, hand_overs.c.to_shard).where(
    hand_overs.c.hospital_id.in_(bindparam("hospitals", expanding=True))
)


def begin(connection: Connection, author: Author, hospital_id: str, to_shard: int) -> Row:
    """Begin to hand a hospital over, in the caller's transaction, which knows that it may go there.

    Raises NotFound, or Conflict while it is there already or another hand-over of it is not settled.
    """
    from_shard = shard_of(connection, hospital_id)
    known = _newest(connection, hospital_id)
    if known is not None and known["switched_us"] is None:
        raise Conflict(f"hospital {hospital_id!r} is on its way to shard {known['to_shard']} already")
    if from_shard == to_shard:
        raise Conflict(f"hospital {hospital_id!r} is in shard {to_shard} already")
    if known is not None and known["settled_us"] is None:
        raise Conflict(f"hospital {hospital_id!r} came to shard {from_shard} just now: it may go on when that is settled")
    values: Row = {
        "hospital_id": hospital_id, "from_shard": from_shard, "to_shard": to_shard, "outbox_id": 0,
        "begun_us": author.now_us, "cut_by": None, "switched_us": None, "settled_us": None,
    }  # fmt: skip
    key = connection.execute(insert(hand_overs).values(values)).inserted_primary_key
    assert key is not None
    row = values | {"number": int(key[0])}
    _tell(connection, row, HandOverStep.PREPARE, author.now_us)
    row["outbox_id"] = _tell(connection, row, HandOverStep.CUT, author.now_us)
    _change(connection, row["number"], outbox_id=row["outbox_id"])
    log_write(connection, author, "hospital.hand-over", hospital_id, {"from_shard": from_shard, "to_shard": to_shard})
    return row


def unsettled(engine: Engine) -> list[Row]:
    """Hand-overs that are not settled, the oldest first; `is_told`: whether the stream has told both shards."""
    is_told = select(outbox.c.id).where(outbox.c.id == hand_overs.c.outbox_id, outbox.c.published_us.is_not(None)).exists()
    query = select(hand_overs, is_told.label("is_told")).where(hand_overs.c.settled_us.is_(None))
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(query.order_by(hand_overs.c.number)).mappings()]


def switch(engine: Engine, number: int, *, cut_by: int, now_us: int) -> None:
    """From now on the hospital is in its new shard. `cut_by`: a sequence of the stream that is not before the cut."""
    with writing(engine) as connection:
        row = _row(connection, number)
        if row["switched_us"] is None:
            place = {"shard": row["to_shard"], "version": hospitals.c.version + 1}
            connection.execute(update(hospitals).where(hospitals.c.id == row["hospital_id"]).values(place))
            _change(connection, number, switched_us=now_us, cut_by=cut_by)


def settle(engine: Engine, number: int, now_us: int) -> None:
    """Tell both shards that nothing more comes by the old one."""
    with writing(engine) as connection:
        row = _row(connection, number)
        if row["settled_us"] is None:
            _tell(connection, row, HandOverStep.SETTLE, now_us)
            _change(connection, number, settled_us=now_us)


def newest(engine: Engine, hospital_id: str) -> Row:
    """The last hand-over of a hospital. Raises NotFound where there was none."""
    with reading(engine) as connection:
        row = _newest(connection, hospital_id)
    if row is None:
        raise NotFound(f"hospital {hospital_id!r} was never handed over")
    return row


def places(engine: Engine) -> dict[str, int]:
    """The shard of every hospital that ever was handed over."""
    query = select(hospitals.c.id, hospitals.c.shard).where(hospitals.c.id.in_(select(hand_overs.c.hospital_id)))
    with reading(engine) as connection:
        return {str(hospital_id): int(shard) for hospital_id, shard in connection.execute(query)}


def shards_ever_of(connection: Connection, hospital_ids: Sequence[str]) -> set[int]:
    """Where these hospitals are on their way to, or ever were before: some of their last rows may lie there still."""
    return {int(shard) for row in connection.execute(_EVER_OF, {"hospitals": hospital_ids}) for shard in row}


def _newest(connection: Connection, hospital_id: str) -> Row | None:
    query = select(hand_overs).where(hand_overs.c.hospital_id == hospital_id).order_by(hand_overs.c.number.desc()).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else dict(row)


def _row(connection: Connection, number: int) -> Row:
    return dict(connection.execute(select(hand_overs).where(hand_overs.c.number == number)).mappings().one())


def _change(connection: Connection, number: int, **values: Any) -> None:
    connection.execute(update(hand_overs).where(hand_overs.c.number == number).values(values))


def _tell(connection: Connection, row: Row, step: HandOverStep, now_us: int) -> int:
    """Put a step into the outbox; returns its id there."""
    message = HandOver(row["hospital_id"], row["number"], step, row["from_shard"], row["to_shard"])
    shard = row["to_shard"] if step is HandOverStep.PREPARE else row["from_shard"]
    values = {"subject": subjects.control(shard), "payload": encode(message), "created_us": now_us}
    key = connection.execute(insert(outbox).values(values)).inserted_primary_key
    assert key is not None
    return int(key[0])
