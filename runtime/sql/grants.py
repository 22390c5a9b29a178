"""What principals were given, where and for how long; care teams; and who must not be the last. Clauses 7.2b, 9.3b."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Connection, Engine, insert, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from domain.errors import Conflict, InvalidInput, NotFound
from domain.principals import Grant, Place, Relation, Role
from runtime.sql.engine import reading, writing
from runtime.sql.identity_tables import care_teams, grants, users
from runtime.sql.records import Author, Row, log_write, one, user_in_log
from runtime.sql.tables import hospitals, patients, tokens, wards

LASTING: Final = (Role.ADMINISTRATOR, Role.SECURITY_ADMINISTRATOR)
"""Somebody has to hold one of these in the whole region: without them nobody could give anything any more."""

_APART: Final = frozenset({Role.SYSTEM_ADMINISTRATOR, Role.SECURITY_ADMINISTRATOR, Role.AUDIT_ADMINISTRATOR})


def grants_of(connection: Connection, principal_id: str, *, now_us: int) -> tuple[Grant, ...]:
    """What a principal has now."""
    query = select(grants).where(grants.c.principal_id == principal_id, _in_force(now_us)).order_by(grants.c.id)
    return tuple(as_grant(row) for row in connection.execute(query))


def as_grant(row: Any) -> Grant:
    return Grant(Role(row.role), Place.parse(row.place), Relation(row.relation), row.until_us)


def treated_by(connection: Connection, principal_id: str, *, now_us: int) -> frozenset[str]:
    """Keys of the patients in whose care team a principal is now."""
    query = select(care_teams.c.patient_key).where(care_teams.c.principal_id == principal_id, _on_team(now_us))
    return frozenset(connection.execute(query).scalars())


def next_change_us(connection: Connection, principal_id: str, *, now_us: int) -> int | None:
    """When something that a principal has now ends, or a care team begins, by itself."""
    own_grants, own_teams = grants.c.principal_id == principal_id, care_teams.c.principal_id == principal_id
    queries = (
        select(grants.c.until_us).where(own_grants, grants.c.ended_us.is_(None), grants.c.until_us > now_us),
        select(care_teams.c.until_us).where(own_teams, care_teams.c.until_us > now_us),
        select(care_teams.c.from_us).where(own_teams, care_teams.c.from_us > now_us),
    )
    return min((at_us for query in queries for at_us in connection.execute(query).scalars()), default=None)


def list_grants(engine: Engine, name: str) -> list[Row]:
    """All that a user was ever given, in that order. Raises NotFound."""
    with reading(engine) as connection:
        user = _user(connection, name)
        query = select(grants).where(grants.c.principal_id == user["id"]).order_by(grants.c.id)
        return [dict(row) for row in connection.execute(query).mappings()]


def give(engine: Engine, author: Author, name: str, grant: Grant) -> Row:
    """Give a user a role. Raises NotFound, InvalidInput for a place that does not exist, Conflict for what they have."""
    with writing(engine) as connection:
        user = _user(connection, name)
        key = insert_grant(connection, author, user["id"], grant)
        log_write(connection, author, "grant.give", user_in_log(connection, name), detail_of(grant) | {"grant": key})
        return {**one(connection, select(grants).where(grants.c.id == key), "grant"), "user": name}


def insert_grant(connection: Connection, author: Author, principal_id: str, grant: Grant) -> int:
    """As `give`, within the caller's transaction, and not logged."""
    check_place(connection, grant.place)
    if grant.until_us is not None and grant.until_us <= author.now_us:
        raise InvalidInput("the end of a grant is in the past: expected a time to come")
    held = grants_of(connection, principal_id, now_us=author.now_us)
    if any((one.role, one.place, one.relation) == (grant.role, grant.place, grant.relation) for one in held):
        raise Conflict(f"they have {grant.role} at {grant.place} already: take it back first")
    apart = {one.role for one in held if one.role in _APART} - {grant.role}
    if grant.role in _APART and apart:
        raise Conflict(f"{grant.role} and {min(apart)} are never one person's: powers that watch one another stay apart")
    values = {
        "principal_id": principal_id, "role": grant.role.value, "place": str(grant.place), "relation": grant.relation.value,
        "until_us": grant.until_us, "given_us": author.now_us,
    }  # fmt: skip
    key = connection.execute(insert(grants).values(values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def detail_of(grant: Grant) -> dict[str, Any]:
    """A grant in the write log."""
    detail: dict[str, Any] = {"role": grant.role.value, "place": str(grant.place)}
    if grant.relation is not Relation.ANY:
        detail["relation"] = grant.relation.value
    return detail if grant.until_us is None else detail | {"until_us": grant.until_us}


def grant_in_force(engine: Engine, name: str, grant_id: int) -> Row:
    """A grant of a user. Raises NotFound, also for one that was taken back."""
    with reading(engine) as connection:
        return _grant(connection, _user(connection, name), grant_id)


def take_back(engine: Engine, author: Author, name: str, grant_id: int) -> str:
    """End a grant; returns the principal's id. Raises NotFound, and Conflict for the last one who can give any."""
    with writing(engine) as connection:
        user = _user(connection, name)
        row = _grant(connection, user, grant_id)
        connection.execute(update(grants).where(grants.c.id == grant_id).values(ended_us=author.now_us))
        if row["role"] in LASTING and not lasting_users(connection, now_us=author.now_us):
            raise Conflict(f"user {name!r} is the last who can give anybody anything: give another one that role first")
        detail = {"grant": grant_id, "role": row["role"], "place": row["place"]}
        log_write(connection, author, "grant.end", user_in_log(connection, name), detail)
        return str(user["id"])


def lasting_users(connection: Connection, *, now_us: int, but: str | None = None) -> set[str]:
    """Ids of active users who hold one of LASTING in a whole region with no end to it, without `but`."""
    query = (
        select(users.c.id, grants.c.place).join(grants, grants.c.principal_id == users.c.id)
        .where(users.c.status == "active", users.c.patient_key.is_(None), grants.c.until_us.is_(None), _in_force(now_us))
        .where(grants.c.role.in_([role.value for role in LASTING]), grants.c.relation == Relation.ANY.value)
    )  # fmt: skip
    return {row.id for row in connection.execute(query) if is_region(Place.parse(row.place))} - {but}


def lasting_tokens(connection: Connection, *, but: str) -> set[str]:
    """Names of tokens in force with one of LASTING in a whole region, without `but`."""
    query = select(tokens.c.name, tokens.c.place).where(
        tokens.c.revoked_us.is_(None), tokens.c.name != but, tokens.c.role.in_([role.value for role in LASTING])
    )
    return {row.name for row in connection.execute(query) if row.place is None or is_region(Place.parse(row.place))}


def omnipotent(engine: Engine, *, now_us: int) -> list[str]:
    """Names of tokens and active users that may everything: what was made before roles were told apart, or in profile `dev`."""
    with reading(engine) as connection:
        as_tokens = select(tokens.c.name).where(tokens.c.role == Role.ADMINISTRATOR.value, tokens.c.revoked_us.is_(None))
        as_users = (
            select(users.c.name).join(grants, grants.c.principal_id == users.c.id).distinct()
            .where(users.c.status == "active", grants.c.role == Role.ADMINISTRATOR.value, _in_force(now_us))
        )  # fmt: skip
        named = {"token": as_tokens, "user": as_users}
        return [f"{kind} {name}" for kind, query in named.items() for name in sorted(connection.execute(query).scalars())]


def is_region(place: Place) -> bool:
    return place.hospital_id is None and place.district_id is None


def check_place(connection: Connection, place: Place) -> None:
    """Raise InvalidInput for a place that nothing can be in: an unknown hospital, ward or district."""
    if place.district_id is not None:
        known = select(hospitals.c.id).where(hospitals.c.district == place.district_id).limit(1)
    elif place.ward_id is not None:
        known = select(wards.c.id).where(wards.c.hospital_id == place.hospital_id, wards.c.id == place.ward_id)
    elif place.hospital_id is not None:
        known = select(hospitals.c.id).where(hospitals.c.id == place.hospital_id)
    else:
        return
    if connection.execute(known).first() is None:
        raise InvalidInput(f"there is no place {str(place)!r}: expected a region, a district, a hospital or a ward that exists")


def list_team(engine: Engine, patient_key: str) -> list[Row]:
    """Who treats a patient, or did, by the beginning; with `name`."""
    query = (
        select(care_teams, users.c.name).join(users, users.c.id == care_teams.c.principal_id)
        .where(care_teams.c.patient_key == patient_key).order_by(care_teams.c.from_us, users.c.name)
    )  # fmt: skip
    with reading(engine) as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def join_team(engine: Engine, author: Author, patient_key: str, name: str, until_us: int | None) -> Row:
    """A user treats a patient from now on. Raises NotFound, InvalidInput, and Conflict for one who does already.

    Conflict too for a patient's own account.
    """
    if until_us is not None and until_us <= author.now_us:
        raise InvalidInput("the end of a membership is in the past: expected a time to come")
    with writing(engine) as connection:
        one(connection, select(patients.c.patient_key).where(patients.c.patient_key == patient_key), f"patient {patient_key!r}")
        user = _user(connection, name)
        if user["patient_key"] is not None:
            raise Conflict(f"user {name!r} is a patient's own account: a care team is of those who treat")
        if patient_key in treated_by(connection, user["id"], now_us=author.now_us):
            raise Conflict(f"user {name!r} is in the care team of patient {patient_key!r} already")
        row = {"patient_key": patient_key, "principal_id": user["id"], "from_us": author.now_us, "until_us": until_us}
        connection.execute(insert(care_teams).values(row))
        log_write(
            connection, author, "care-team.join", patient_key, {"user": user_in_log(connection, name), "until_us": until_us}
        )
        return {**row, "name": name}


def leave_team(engine: Engine, author: Author, patient_key: str, name: str) -> str:
    """A user treats a patient no more; returns the principal's id. Raises NotFound."""
    with writing(engine) as connection:
        user = _user(connection, name)
        mine = (care_teams.c.patient_key == patient_key) & (care_teams.c.principal_id == user["id"])
        now = (care_teams.c.until_us.is_(None)) | (care_teams.c.until_us > author.now_us)
        if not connection.execute(update(care_teams).where(mine & now).values(until_us=author.now_us)).rowcount:
            raise NotFound(f"user {name!r} is not in the care team of patient {patient_key!r}")
        log_write(connection, author, "care-team.leave", patient_key, {"user": user_in_log(connection, name)})
        return str(user["id"])


def end_team(connection: Connection, author: Author, patient_key: str, at_us: int) -> None:
    """Nobody treats a patient after that time. One that is past ends them now: until now they did see the patient."""
    ends_us = max(at_us, author.now_us)
    lasting = (care_teams.c.patient_key == patient_key) & or_(care_teams.c.until_us.is_(None), care_teams.c.until_us > ends_us)
    query = select(users.c.name).join(care_teams, care_teams.c.principal_id == users.c.id).where(lasting).order_by(users.c.name)
    names = connection.execute(query).scalars().all()
    connection.execute(update(care_teams).where(lasting).values(until_us=ends_us))
    for name in names:
        called = user_in_log(connection, name)
        log_write(connection, author, "care-team.leave", patient_key, {"user": called, "until_us": ends_us})


def roles_of(connection: Connection, principal_ids: Collection[str], *, now_us: int) -> dict[str, set[str]]:
    """The roles that each of these principals has now, anywhere."""
    query = select(grants.c.principal_id, grants.c.role).where(grants.c.principal_id.in_(principal_ids), _in_force(now_us))
    roles: dict[str, set[str]] = {}
    for principal_id, role in connection.execute(query):
        roles.setdefault(principal_id, set()).add(role)
    return roles


def _user(connection: Connection, name: str) -> Row:
    columns = (users.c.id, users.c.name, users.c.patient_key)
    return one(connection, select(*columns).where(users.c.name == name), f"user {name!r}")


def _grant(connection: Connection, user: Row, grant_id: int) -> Row:
    mine = (grants.c.id == grant_id) & (grants.c.principal_id == user["id"]) & grants.c.ended_us.is_(None)
    return one(connection, select(grants).where(mine), f"grant {grant_id} of user {user['name']!r}")


def _in_force(now_us: int) -> ColumnElement[bool]:
    return grants.c.ended_us.is_(None) & or_(grants.c.until_us.is_(None), grants.c.until_us > now_us)


def _on_team(now_us: int) -> ColumnElement[bool]:
    """A beginning that is to come is of a clock that was set back since. With an end, they may have left meanwhile."""
    is_begun = (care_teams.c.from_us <= now_us) | care_teams.c.until_us.is_(None)
    return is_begun & or_(care_teams.c.until_us.is_(None), care_teams.c.until_us > now_us)
