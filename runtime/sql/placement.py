"""Where operators want hospitals: in a given shard, in a shard and on a host of its own, or among the others again.

Each order is one transaction: what it says of the hospital stands together with the hand-over that carries it out, which
goes on from wherever it is interrupted (`runtime.sql.hand_overs`). Hosts follow from it: whoever supervises them reads
`dedicated` at its start and as it changes. So an order is either not there, or is carried out in time.
"""

from __future__ import annotations

from sqlalchemy import Connection, Engine, select

from domain.errors import Conflict, InvalidInput
from domain.host_orders import Placement
from runtime.sql.engine import reading, writing
from runtime.sql.hand_overs import begin
from runtime.sql.records import Author, Row, change, log_write, one
from runtime.sql.shard_loads import ShardLoads, arriving, dedicated_shards
from runtime.sql.tables import hand_overs, hospitals


def hand_over(engine: Engine, author: Author, hospital_id: str, to_shard: int, *, shards: int) -> Row:
    """Begin to hand a hospital over to a shard that is not dedicated; returns the hand-over.

    Raises InvalidInput, NotFound, or Conflict: while it is there or on its way already, or has or would need a shard of
    its own.
    """
    if not 0 <= to_shard < shards:
        raise InvalidInput(f"shard {to_shard} is none of this region: expected 0 to {shards - 1}")
    with writing(engine) as connection:
        if _hospital(connection, hospital_id)["placement"] == Placement.DEDICATED:
            raise Conflict(f"hospital {hospital_id!r} has a shard of its own: share it, rather than hand it over")
        if (owner := dedicated_shards(connection).get(to_shard)) is not None:
            raise Conflict(f"shard {to_shard} is for hospital {owner!r} alone: choose another one")
        return begin(connection, author, hospital_id, to_shard)


def dedicate(engine: Engine, author: Author, hospital_id: str, *, shards: int) -> Row:
    """Let a hospital have a shard and a host of its own; returns its placement, as `placement_of`. Idempotent.

    It is handed over to a shard without any hospital, unless it is alone in its own. Raises NotFound, or Conflict when no
    such shard is left or a hand-over of it is not settled.
    """
    with writing(engine) as connection:
        row = _hospital(connection, hospital_id)
        if row["placement"] != Placement.DEDICATED:
            loads = ShardLoads(connection, shards)
            if not loads.has_spare():
                raise Conflict("no shard is left for a hospital alone: one is kept for all that share")
            if hospital_id in arriving(connection) or not loads.is_alone_in(row["shard"]):
                begin(connection, author, hospital_id, _empty(loads))
            _place(connection, author, hospital_id, Placement.DEDICATED)
        return _placement(connection, hospital_id)


def share(engine: Engine, author: Author, hospital_id: str, *, shards: int) -> Row:
    """Put a hospital among the others again; returns its placement, as `placement_of`. Idempotent.

    It is handed over to the least loaded shard, so that its own is empty again. Raises NotFound, or Conflict while the
    hand-over that dedicated it is not settled.
    """
    with writing(engine) as connection:
        if _hospital(connection, hospital_id)["placement"] != Placement.SHARED:
            begin(connection, author, hospital_id, ShardLoads(connection, shards).place(0))
            _place(connection, author, hospital_id, Placement.SHARED)
        return _placement(connection, hospital_id)


def placement_of(engine: Engine, hospital_id: str) -> Row:
    """`hospital_id`, `placement`, `shard` and `to_shard` (None unless it is on its way to one). Raises NotFound."""
    with reading(engine) as connection:
        return _placement(connection, hospital_id)


def dedicated(engine: Engine) -> tuple[set[int], set[int]]:
    """Shards that are to have a host with nothing else on it; and those that some hospital is about to leave."""
    leaving = select(hand_overs.c.from_shard).where(hand_overs.c.switched_us.is_(None))
    with reading(engine) as connection:
        return set(dedicated_shards(connection)), {int(shard) for shard in connection.execute(leaving).scalars()}


def _empty(loads: ShardLoads) -> int:
    shard = loads.empty()
    if shard is None:
        emptiest, count = loads.fewest()
        raise Conflict(
            f"no shard is left for a hospital alone: the emptiest, shard {emptiest}, holds {count} "
            f"hospital{'s' if count > 1 else ''}; hand {'them' if count > 1 else 'it'} over to other shards first"
        )
    return shard


def _hospital(connection: Connection, hospital_id: str) -> Row:
    return one(connection, select(hospitals).where(hospitals.c.id == hospital_id), f"hospital {hospital_id!r}")


def _place(connection: Connection, author: Author, hospital_id: str, placement: Placement) -> None:
    values = {"placement": str(placement)}
    change(connection, hospitals, {"id": hospital_id}, values, version=None, what=f"hospital {hospital_id!r}")
    log_write(connection, author, "hospital.place", hospital_id, values)


def _placement(connection: Connection, hospital_id: str) -> Row:
    row = _hospital(connection, hospital_id)
    to_shard = arriving(connection).get(hospital_id)
    return {"hospital_id": hospital_id, "placement": row["placement"], "shard": row["shard"], "to_shard": to_shard}
