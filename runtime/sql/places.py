"""Hospitals, wards and beds. Clause 5.1 (directories at region scale).

A hospital is placed in a shard on its registration, goes to another by hand-over only (`runtime.sql.placement`), and is
never removed: readings of it exist. Wards and beds can be, while nothing stands in them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, delete, func, insert, or_, select, true

from domain.errors import Conflict, InvalidInput, NotFound
from domain.fleet_manifest import Tier
from domain.host_orders import Placement
from domain.ids import parse_hospital_id, parse_token
from domain.permissions import Reach
from runtime.sql.engine import reading, writing
from runtime.sql.records import Author, Page, Row, change, check_fields, check_text, log_write, one, page
from runtime.sql.shard_loads import ShardLoads
from runtime.sql.tables import beds, devices, hospitals, patients, wards
from runtime.sql.within import BEDS, HOSPITALS, WARDS, within

_HOSPITAL_FIELDS: Final = ("name", "tier", "beds", "district")
NAME_CHARS: Final = 200
_PRESENT: Final = {
    "beds": true(), "devices": devices.c.status != "retired", "patients": patients.c.discharged_us.is_(None),
}  # fmt: skip


def create_hospital(  # noqa: PLR0913 (one fact each)
    engine: Engine, author: Author, *, hospital_id: str, name: str, tier: Tier, bed_count: int, shards: int,
    district: str | None = None,
) -> Row:  # fmt: skip
    """Register a hospital in the least loaded shard that is not dedicated. Raises InvalidInput, or Conflict when it exists."""
    with writing(engine) as connection:
        if find_hospital(connection, hospital_id) is not None:
            raise Conflict(f"hospital {hospital_id!r} exists already")
        shard = ShardLoads(connection, shards).place(0)
        return add_hospital(
            connection,
            author,
            hospital_id=hospital_id,
            name=name,
            tier=tier,
            bed_count=bed_count,
            shard=shard,
            district=district,
        )


def add_hospital(  # noqa: PLR0913 (one fact each)
    connection: Connection, author: Author, *, hospital_id: str, name: str, tier: Tier, bed_count: int, shard: int,
    district: str | None = None,
) -> Row:  # fmt: skip
    """As `create_hospital`, within the caller's transaction, without the look and in a given shard."""
    values = {
        "id": parse_hospital_id(hospital_id), "name": name, "tier": str(tier), "beds": bed_count,
        "shard": shard, "placement": str(Placement.SHARED), "district": district, "created_us": author.now_us, "version": 1,
    }  # fmt: skip
    _check_hospital(values)
    connection.execute(insert(hospitals).values(values))
    log_write(connection, author, "hospital.create", hospital_id)
    return values


def find_hospital(connection: Connection, hospital_id: str) -> Row | None:
    row = connection.execute(select(hospitals).where(hospitals.c.id == hospital_id)).mappings().one_or_none()
    return None if row is None else dict(row)


def get_hospital(engine: Engine, hospital_id: str) -> Row:
    """Raises NotFound."""
    with reading(engine) as connection:
        return _hospital(connection, hospital_id)


def list_hospitals(
    engine: Engine, *, reach: Reach, limit: int, after: tuple[Any, ...] | None = None, tier: str | None = None,
    text: str | None = None,
) -> Page:  # fmt: skip
    """Those within `reach` by id. `text` matches a part of the id or the name."""
    query = select(hospitals).where(within(reach, HOSPITALS))
    if tier is not None:
        query = query.where(hospitals.c.tier == tier)
    if text is not None:
        parts = [func.lower(column).contains(text.lower(), autoescape=True) for column in (hospitals.c.id, hospitals.c.name)]
        query = query.where(or_(*parts))
    with reading(engine) as connection:
        return page(connection, query, [hospitals.c.id], limit=limit, after=after)


def update_hospital(engine: Engine, author: Author, hospital_id: str, values: dict[str, Any], *, version: int | None) -> Row:
    """Change name, tier, beds or district. Raises InvalidInput, NotFound, StaleVersion."""
    check_fields("hospital", values, _HOSPITAL_FIELDS)
    _check_hospital(values)
    with writing(engine) as connection:
        row = change(connection, hospitals, {"id": hospital_id}, values, version=version, what=f"hospital {hospital_id!r}")
        log_write(connection, author, "hospital.update", hospital_id, values)
        return row


def create_ward(engine: Engine, author: Author, hospital_id: str, ward_id: str, name: str) -> Row:
    """Raises InvalidInput, NotFound for the hospital, Conflict when the ward exists."""
    check_text(name, "the name of a ward", NAME_CHARS)
    with writing(engine) as connection:
        _hospital(connection, hospital_id)
        if ward_id in ward_ids(connection, hospital_id):
            raise Conflict(f"ward {ward_id!r} of hospital {hospital_id!r} exists already")
        values = {"hospital_id": hospital_id, "id": parse_token(ward_id, "ward id"), "name": name, "version": 1}
        connection.execute(insert(wards).values(values))
        log_write(connection, author, "ward.create", f"{hospital_id}/{ward_id}")
        return values


def list_wards(engine: Engine, hospital_id: str, *, reach: Reach, limit: int, after: tuple[Any, ...] | None = None) -> Page:
    """Those within `reach` by id. Raises NotFound for the hospital."""
    query = select(wards).where(wards.c.hospital_id == hospital_id, within(reach, WARDS))
    with reading(engine) as connection:
        _hospital(connection, hospital_id)
        return page(connection, query, [wards.c.id], limit=limit, after=after)


def update_ward(engine: Engine, author: Author, hospital_id: str, ward_id: str, name: str, *, version: int | None) -> Row:
    """Raises InvalidInput, NotFound, StaleVersion."""
    check_text(name, "the name of a ward", NAME_CHARS)
    with writing(engine) as connection:
        key = {"hospital_id": hospital_id, "id": ward_id}
        row = change(connection, wards, key, {"name": name}, version=version, what=f"ward {ward_id!r}")
        log_write(connection, author, "ward.update", f"{hospital_id}/{ward_id}", {"name": name})
        return row


def remove_ward(engine: Engine, author: Author, hospital_id: str, ward_id: str, *, version: int | None) -> None:
    """Raises NotFound, StaleVersion, or Conflict while beds, devices or patients are in it."""
    _remove(engine, author, wards, hospital_id, ward_id, version)


def create_bed(engine: Engine, author: Author, hospital_id: str, bed_id: str, ward_id: str | None) -> Row:
    """Raises InvalidInput, NotFound for the hospital or the ward, Conflict when the bed exists."""
    with writing(engine) as connection:
        _hospital(connection, hospital_id)
        if bed_id in bed_ids(connection, hospital_id):
            raise Conflict(f"bed {bed_id!r} of hospital {hospital_id!r} exists already")
        _check_ward(connection, hospital_id, ward_id)
        values = {"hospital_id": hospital_id, "id": parse_token(bed_id, "bed id"), "ward_id": ward_id, "version": 1}
        connection.execute(insert(beds).values(values))
        log_write(connection, author, "bed.create", f"{hospital_id}/{bed_id}")
        return values


def list_beds(
    engine: Engine, hospital_id: str, *, reach: Reach, limit: int, after: tuple[Any, ...] | None = None,
    ward_id: str | None = None,
) -> Page:  # fmt: skip
    """Those within `reach` by id. Raises NotFound for the hospital."""
    query = select(beds).where(beds.c.hospital_id == hospital_id, within(reach, BEDS))
    if ward_id is not None:
        query = query.where(beds.c.ward_id == ward_id)
    with reading(engine) as connection:
        _hospital(connection, hospital_id)
        return page(connection, query, [beds.c.id], limit=limit, after=after)


def update_bed(
    engine: Engine, author: Author, hospital_id: str, bed_id: str, ward_id: str | None, *, version: int | None
) -> Row:
    """Put a bed into another ward; devices and patients in it are moved by their own. Raises NotFound, StaleVersion."""
    with writing(engine) as connection:
        _check_ward(connection, hospital_id, ward_id)
        key = {"hospital_id": hospital_id, "id": bed_id}
        row = change(connection, beds, key, {"ward_id": ward_id}, version=version, what=f"bed {bed_id!r}")
        log_write(connection, author, "bed.update", f"{hospital_id}/{bed_id}", {"ward_id": ward_id})
        return row


def remove_bed(engine: Engine, author: Author, hospital_id: str, bed_id: str, *, version: int | None) -> None:
    """Raises NotFound, StaleVersion, or Conflict while devices or patients are in it."""
    _remove(engine, author, beds, hospital_id, bed_id, version)


def add_places(
    connection: Connection, hospital_id: str, ward_of_bed: Mapping[str, str | None], ward_names: Collection[str],
    *, makes_wards: bool = True,
) -> None:  # fmt: skip
    """Create the wards and beds that are named and do not exist. Raises InvalidInput.

    Without `makes_wards` beds alone: raises NotFound for a ward that does not exist. What stands in a ward that a slip of a
    pen has made is within the reach of nobody who has a ward.
    """
    known = ward_ids(connection, hospital_id)
    wanted = {parse_token(ward, "ward id") for ward in {*ward_names, *(w for w in ward_of_bed.values() if w)}}
    if missing := sorted(wanted - known):
        if not makes_wards:
            raise unknown_ward(hospital_id, missing[0])
        connection.execute(insert(wards), [{"hospital_id": hospital_id, "id": w, "name": w, "version": 1} for w in missing])
    known = bed_ids(connection, hospital_id)
    if missing := sorted(set(ward_of_bed) - known):
        rows = [
            {"hospital_id": hospital_id, "id": parse_token(bed, "bed id"), "ward_id": ward_of_bed[bed], "version": 1}
            for bed in missing
        ]
        connection.execute(insert(beds), rows)


def unknown_ward(hospital_id: str, ward_id: str) -> NotFound:
    """For who names a ward that does not exist, and may not make it."""
    return NotFound(f"ward {ward_id!r} of hospital {hospital_id!r} is unknown: who keeps its places has to add it first")


def ward_ids(connection: Connection, hospital_id: str) -> set[str]:
    return set(connection.execute(select(wards.c.id).where(wards.c.hospital_id == hospital_id)).scalars())


def bed_ids(connection: Connection, hospital_id: str) -> set[str]:
    return set(connection.execute(select(beds.c.id).where(beds.c.hospital_id == hospital_id)).scalars())


def _hospital(connection: Connection, hospital_id: str) -> Row:
    return one(connection, select(hospitals).where(hospitals.c.id == hospital_id), f"hospital {hospital_id!r}")


def _check_hospital(values: Mapping[str, Any]) -> None:
    check_text(values.get("name", "-"), "the name of a hospital", NAME_CHARS)
    if values.get("beds", 0) < 0:
        raise InvalidInput(f"a hospital has {values['beds']} beds: expected 0 or more")
    if values.get("tier", Tier.PRIMARY) not in set(Tier):
        raise InvalidInput(f"tier {values['tier']!r} is unknown: expected one of {', '.join(Tier)}")
    if values.get("district") is not None:
        parse_token(values["district"], "district id")


def _check_ward(connection: Connection, hospital_id: str, ward_id: str | None) -> None:
    if ward_id is not None:
        query = select(wards.c.id).where(wards.c.hospital_id == hospital_id, wards.c.id == ward_id)
        one(connection, query, f"ward {ward_id!r} of hospital {hospital_id!r}")


def _remove(engine: Engine, author: Author, table: Table, hospital_id: str, place_id: str, version: int | None) -> None:
    kind = "ward" if table is wards else "bed"
    key = {"hospital_id": hospital_id, "id": place_id}
    with writing(engine) as connection:
        change(connection, table, key, {}, version=version, what=f"{kind} {place_id!r} of hospital {hospital_id!r}")
        for other in (devices, patients) if table is beds else (beds, devices, patients):
            inside = select(func.count()).where(other.c.hospital_id == hospital_id, other.c[f"{kind}_id"] == place_id)
            if found := connection.execute(inside.where(_PRESENT[other.name])).scalar_one():
                raise Conflict(f"{kind} {place_id!r} holds {found} {other.name}: move them first")
        connection.execute(delete(table).where(table.c.hospital_id == hospital_id, table.c.id == place_id))
        log_write(connection, author, f"{kind}.remove", f"{hospital_id}/{place_id}")
