"""Hospitals, wards and beds. Clause 5.1 (directories at region scale)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select

from domain.errors import Conflict
from domain.fleet_manifest import Tier
from domain.ids import parse_hospital_id, parse_token
from runtime.sql.engine import reading, writing
from runtime.sql.records import Author, Page, Row, change, log_write, one, page
from runtime.sql.tables import beds, devices, hospitals, wards


def create_hospital(
    engine: Engine, author: Author, *, hospital_id: str, name: str, tier: Tier, bed_count: int, shards: int
) -> Row:
    """Register a hospital in the least loaded shard. Raises InvalidInput, or Conflict when it exists."""
    with writing(engine) as connection:
        if find_hospital(connection, hospital_id) is not None:
            raise Conflict(f"hospital {hospital_id!r} exists already")
        return add_hospital(
            connection, author, hospital_id=hospital_id, name=name, tier=tier, bed_count=bed_count, shards=shards
        )


def add_hospital(
    connection: Connection, author: Author, *, hospital_id: str, name: str, tier: Tier, bed_count: int, shards: int
) -> Row:
    """As `create_hospital`, within the caller's transaction and without the look."""
    values = {
        "id": parse_hospital_id(hospital_id), "name": name, "tier": str(tier), "beds": bed_count,
        "shard": _lightest_shard(connection, shards), "created_us": author.now_us, "version": 1,
    }  # fmt: skip
    connection.execute(insert(hospitals).values(values))
    log_write(connection, author, "hospital.create", hospital_id)
    return values


def find_hospital(connection: Connection, hospital_id: str) -> Row | None:
    row = connection.execute(select(hospitals).where(hospitals.c.id == hospital_id)).mappings().one_or_none()
    return None if row is None else dict(row)


def get_hospital(engine: Engine, hospital_id: str) -> Row:
    """Raises NotFound."""
    with reading(engine) as connection:
        return one(connection, select(hospitals).where(hospitals.c.id == hospital_id), f"hospital {hospital_id!r}")


def list_hospitals(engine: Engine, *, limit: int, after: tuple[Any, ...] | None = None, tier: str | None = None) -> Page:
    query = select(hospitals)
    if tier is not None:
        query = query.where(hospitals.c.tier == tier)
    with reading(engine) as connection:
        return page(connection, query, [hospitals.c.id], limit=limit, after=after)


def update_hospital(engine: Engine, author: Author, hospital_id: str, values: dict[str, Any], *, version: int | None) -> Row:
    """Change name, tier or beds. Raises NotFound, Conflict."""
    with writing(engine) as connection:
        row = change(connection, hospitals, {"id": hospital_id}, values, version=version, what=f"hospital {hospital_id!r}")
        log_write(connection, author, "hospital.update", hospital_id)
        return row


def create_ward(engine: Engine, author: Author, hospital_id: str, ward_id: str, name: str) -> Row:
    """Raises NotFound for the hospital, Conflict when the ward exists."""
    with writing(engine) as connection:
        one(connection, select(hospitals.c.id).where(hospitals.c.id == hospital_id), f"hospital {hospital_id!r}")
        if ward_id in ward_ids(connection, hospital_id):
            raise Conflict(f"ward {ward_id!r} of hospital {hospital_id!r} exists already")
        values = {"hospital_id": hospital_id, "id": parse_token(ward_id, "ward id"), "name": name, "version": 1}
        connection.execute(insert(wards).values(values))
        log_write(connection, author, "ward.create", f"{hospital_id}/{ward_id}")
        return values


def list_wards(engine: Engine, hospital_id: str, *, limit: int, after: tuple[Any, ...] | None = None) -> Page:
    with reading(engine) as connection:
        return page(connection, select(wards).where(wards.c.hospital_id == hospital_id), [wards.c.id], limit=limit, after=after)


def update_ward(engine: Engine, author: Author, hospital_id: str, ward_id: str, name: str, *, version: int | None) -> Row:
    """Raises NotFound, Conflict."""
    with writing(engine) as connection:
        key = {"hospital_id": hospital_id, "id": ward_id}
        row = change(connection, wards, key, {"name": name}, version=version, what=f"ward {ward_id!r}")
        log_write(connection, author, "ward.update", f"{hospital_id}/{ward_id}")
        return row


def create_bed(engine: Engine, author: Author, hospital_id: str, bed_id: str, ward_id: str | None) -> Row:
    """Raises NotFound for the hospital, Conflict when the bed exists."""
    with writing(engine) as connection:
        one(connection, select(hospitals.c.id).where(hospitals.c.id == hospital_id), f"hospital {hospital_id!r}")
        if bed_id in bed_ids(connection, hospital_id):
            raise Conflict(f"bed {bed_id!r} of hospital {hospital_id!r} exists already")
        values = {"hospital_id": hospital_id, "id": parse_token(bed_id, "bed id"), "ward_id": ward_id, "version": 1}
        connection.execute(insert(beds).values(values))
        log_write(connection, author, "bed.create", f"{hospital_id}/{bed_id}")
        return values


def list_beds(
    engine: Engine, hospital_id: str, *, limit: int, after: tuple[Any, ...] | None = None, ward_id: str | None = None
) -> Page:
    query = select(beds).where(beds.c.hospital_id == hospital_id)
    if ward_id is not None:
        query = query.where(beds.c.ward_id == ward_id)
    with reading(engine) as connection:
        return page(connection, query, [beds.c.id], limit=limit, after=after)


def add_places(connection: Connection, hospital_id: str, ward_of_bed: dict[str, str | None], ward_names: set[str]) -> None:
    """Create the wards and beds that are named and do not exist."""
    known = ward_ids(connection, hospital_id)
    wanted = {parse_token(ward, "ward id") for ward in ward_names | {w for w in ward_of_bed.values() if w}}
    if missing := sorted(wanted - known):
        connection.execute(insert(wards), [{"hospital_id": hospital_id, "id": w, "name": w, "version": 1} for w in missing])
    known = bed_ids(connection, hospital_id)
    if missing := sorted(set(ward_of_bed) - known):
        rows = [
            {"hospital_id": hospital_id, "id": parse_token(bed, "bed id"), "ward_id": ward_of_bed[bed], "version": 1}
            for bed in missing
        ]
        connection.execute(insert(beds), rows)


def ward_ids(connection: Connection, hospital_id: str) -> set[str]:
    return set(connection.execute(select(wards.c.id).where(wards.c.hospital_id == hospital_id)).scalars())


def bed_ids(connection: Connection, hospital_id: str) -> set[str]:
    return set(connection.execute(select(beds.c.id).where(beds.c.hospital_id == hospital_id)).scalars())


def _lightest_shard(connection: Connection, shards: int) -> int:
    """The shard with the fewest devices, then hospitals; the lowest number among equals."""
    query = (
        select(hospitals.c.shard, func.count(hospitals.c.id.distinct()), func.count(devices.c.handle))
        .outerjoin(devices, devices.c.hospital_id == hospitals.c.id)
        .group_by(hospitals.c.shard)
    )
    load = {shard: (held, count) for shard, count, held in connection.execute(query)}
    return min(range(shards), key=lambda shard: (*load.get(shard, (0, 0)), shard))
