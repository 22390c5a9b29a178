"""Tokens of people and programs, the write log, exports and answers to rejects. Clauses 5.4a, 9.3b, 9.3e."""

from __future__ import annotations

import logging
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from sqlalchemy import Connection, Engine, delete, insert, select, update

from domain.errors import Conflict, NotFound, Unauthenticated, Unavailable
from domain.permissions import Reach
from domain.principals import PROGRAMS, Place, Role, check_own_name, other_of
from runtime.sql.engine import reading, writing
from runtime.sql.grants import LASTING, check_place, is_region, lasting_tokens, lasting_users
from runtime.sql.identity_tables import service_access, users
from runtime.sql.records import Author, Page, Row, by_platform, check_text, log_write, page
from runtime.sql.sealed import open_writes
from runtime.sql.tables import exports, reject_actions, tokens, write_log
from runtime.sql.within import tokens_within
from runtime.tokens import Prefix, digests_of, new_token, token_digest

logger = logging.getLogger(__name__)

SERVICE_ACCESS_US: Final = 3_600_000_000
_NAME_CHARS: Final = 200
_USE_NOTED_EVERY_US: Final = 60_000_000


def create_first_token(engine: Engine, role: Role, *, now_us: int) -> str | None:
    """Make the first token; returns it, or None when there is one already. It can be shown this once only."""
    with writing(engine) as connection:
        if connection.execute(select(tokens.c.name).limit(1)).first() is not None:
            return None
        token, digest = new_token()
        name = "admin" if role is Role.ADMINISTRATOR else role.value
        values = {"name": name, "digest": digest, "role": role.value, "created_us": now_us, "revoked_us": None}
        connection.execute(insert(tokens).values(values))
        log_write(connection, by_platform("first start", now_us), "token.create", name, {"role": role.value})
        return token


def create_token(engine: Engine, author: Author, name: str, role: Role = Role.ADMINISTRATOR, place: Place | None = None) -> str:
    """A token for a person or program called `name`, with this role at `place`, or in the whole region.

    It can be shown this once only. Raises Conflict for a taken name, InvalidInput for a place that does not exist and for a
    name that is others'.
    """
    check_text(name, "the name of a token", _NAME_CHARS)
    check_own_name(name)
    with writing(engine) as connection:
        taken = (select(tokens.c.name).where(tokens.c.name == name), select(users.c.name).where(users.c.name == name))
        if any(connection.execute(query).first() is not None for query in taken):
            raise Conflict(f"the name {name!r} is taken, by a token or a user: names are never used again")
        if place is not None:
            check_place(connection, place)
        token, digest = new_token()
        given = {"role": role.value} if place is None else {"role": role.value, "place": str(place)}
        values = given | {"name": name, "digest": digest, "created_us": author.now_us, "revoked_us": None}
        connection.execute(insert(tokens).values(values))
        log_write(connection, author, "token.create", name, given)
        return token


def revoke_token(engine: Engine, author: Author, name: str) -> None:
    """The token stops working, and its name stays taken. Raises NotFound, also when it is revoked already.

    Raises Conflict for the last one of those who can give anybody anything, users with an unending grant among them.
    """
    in_force = (tokens.c.name == name) & tokens.c.revoked_us.is_(None)
    with writing(engine) as connection:
        if not connection.execute(update(tokens).where(in_force).values(revoked_us=author.now_us)).rowcount:
            raise NotFound(f"no token in force is named {name!r}")
        if _is_lasting(connection, name) and not (
            lasting_users(connection, now_us=author.now_us) or lasting_tokens(connection, but=name)
        ):
            raise Conflict(f"token {name!r} is the last that can give anybody anything: make an administrator first")
        log_write(connection, author, "token.revoke", name)


def list_tokens(engine: Engine, *, reach: Reach, region_id: str, limit: int, after: tuple[Any, ...] | None = None) -> Page:
    """Tokens within `reach` by name, those that were revoked too; never what they are."""
    columns = (tokens.c[name] for name in ("name", "role", "place", "created_us", "revoked_us", "last_used_us"))
    with reading(engine) as connection:
        return page(
            connection, select(*columns).where(tokens_within(reach, region_id)), [tokens.c.name], limit=limit, after=after
        )


def tokens_of_people(engine: Engine) -> list[tuple[str, str]]:
    """Name and role of tokens in force that bear a person's role: made before such were refused."""
    query = select(tokens.c.name, tokens.c.role).where(
        tokens.c.revoked_us.is_(None), tokens.c.role.not_in([role.value for role in PROGRAMS])
    )
    with reading(engine) as connection:
        return [(row.name, row.role) for row in connection.execute(query.order_by(tokens.c.name))]


def named_as_others(engine: Engine) -> list[tuple[str, str]]:
    """Tokens in force and active users, as `token NAME`, whose name logs give to others, and to whom.

    They were made before such names were refused. Not patients' accounts: logs never call them by their name.
    """
    as_tokens = select(tokens.c.name).where(tokens.c.revoked_us.is_(None))
    as_users = select(users.c.name).where(users.c.status == "active", users.c.patient_key.is_(None))
    with reading(engine) as connection:
        named = {
            f"{kind} {name}": other_of(name)
            for kind, query in (("token", as_tokens), ("user", as_users))
            for name in sorted(connection.execute(query).scalars())
        }
    return [(name, str(other)) for name, other in named.items() if other is not None]


def authenticate(engine: Engine, token: str, *, now_us: int | None = None) -> Row:
    """Name, role and place of who holds `token`; raises Unauthenticated for one that is unknown or revoked.

    With `now_us` the use is noted, to the minute, if the database takes it: a full disk locks nobody out.
    """
    query = select(tokens.c.name, tokens.c.role, tokens.c.place, tokens.c.last_used_us).where(
        tokens.c.digest.in_(digests_of(token)), tokens.c.revoked_us.is_(None)
    )
    with reading(engine) as connection:
        row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise Unauthenticated("the token is unknown or revoked")
    if now_us is not None and now_us - (row["last_used_us"] or 0) >= _USE_NOTED_EVERY_US:
        try:
            with writing(engine) as connection:
                connection.execute(update(tokens).where(tokens.c.name == row["name"]).values(last_used_us=now_us))
        except Unavailable as error:
            logger.warning("the use of a token could not be noted: %s", error)
    return {"name": row["name"], "role": row["role"], "place": row["place"]}


def begin_service_access(engine: Engine, name: str, token: str, *, now_us: int) -> str:
    """A token for an hour, for the service `name` that shows its own one. Raises Unauthenticated."""
    if authenticate(engine, token, now_us=now_us)["name"] != name:
        raise Unauthenticated("the token is unknown or revoked")
    access, digest = new_token(Prefix.SERVICE)
    with writing(engine) as connection:
        connection.execute(delete(service_access).where(service_access.c.ends_us <= now_us))
        values = {"digest": digest, "token_name": name, "ends_us": now_us + SERVICE_ACCESS_US}
        connection.execute(insert(service_access).values(values))
    return access


def service_of(engine: Engine, access: str, *, now_us: int) -> Row:
    """Name, role and place of the service that got `access`, and until when (`ends_us`).

    Raises Unauthenticated once that time, or the service's own token, is over.
    """
    query = (
        select(tokens.c.name, tokens.c.role, tokens.c.place, service_access.c.ends_us)
        .join(service_access, service_access.c.token_name == tokens.c.name)
        .where(service_access.c.digest == token_digest(access), service_access.c.ends_us > now_us)
        .where(tokens.c.revoked_us.is_(None))
    )  # fmt: skip
    with reading(engine) as connection:
        row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise Unauthenticated("the token is unknown, its hour is over, or the service's own one was revoked")
    return dict(row)


def list_writes(engine: Engine, *, limit: int, after: tuple[Any, ...] | None = None, who: str | None = None) -> Page:
    """The write log, the newest first."""
    query = select(write_log)
    if who is not None:
        query = query.where(write_log.c.who == who)
    with reading(engine) as connection:
        found = page(connection, query, [write_log.c.id], limit=limit, after=after, descending=True)
        return Page(open_writes(connection, found.rows), found.after)


def record_export(
    engine: Engine, author: Author, *, lake_version: int, handles: list[int] | None, from_us: int | None,
    until_us: int | None, query: dict[str, Any],
) -> int:  # fmt: skip
    """Note what left the platform, so that a later correction can name it; returns the export's id."""
    values = {
        "at_us": author.now_us, "who": author.who, "lake_version": lake_version, "handles": handles, "from_us": from_us,
        "until_us": until_us, "query": query,
    }  # fmt: skip
    with writing(engine) as connection:
        key = connection.execute(insert(exports).values(values)).inserted_primary_key
        assert key is not None
        log_write(connection, author, "export.make", str(key[0]), {"lake_version": lake_version})
        return int(key[0])


def without_search(url: str) -> str:
    """An address without what was searched for by `q`: it may be a name."""
    parts = urlsplit(url)
    given = [(name, "***" if name == "q" else value) for name, value in parse_qsl(parts.query, keep_blank_values=True)]
    return urlunsplit(parts._replace(query=urlencode(given, safe="*")))


def list_exports(engine: Engine, *, limit: int, after: tuple[Any, ...] | None = None) -> Page:
    """What left the platform, the newest first."""
    with reading(engine) as connection:
        return page(connection, select(exports), [exports.c.id], limit=limit, after=after, descending=True)


def record_resubmission(engine: Engine, author: Author, reject_id: str, receipt: str) -> None:
    """Note that a reject was repaired and accepted. Raises Conflict when it was before."""
    with writing(engine) as connection:
        same = select(reject_actions.c.receipt).where(reject_actions.c.reject_id == reject_id)
        before = connection.execute(same).scalar_one_or_none()
        if before is not None:
            raise Conflict(f"reject {reject_id!r} was resubmitted before: its receipt is {before}")
        values = {"reject_id": reject_id, "at_us": author.now_us, "who": author.who, "receipt": receipt}
        connection.execute(insert(reject_actions).values(values))
        log_write(connection, author, "reject.resubmit", reject_id)


def resubmissions(engine: Engine, reject_ids: list[str]) -> dict[str, Row]:
    """What became of these rejects, for those that were resubmitted."""
    query = select(reject_actions).where(reject_actions.c.reject_id.in_(reject_ids))
    with reading(engine) as connection:
        return {row["reject_id"]: dict(row) for row in connection.execute(query).mappings()}


def _is_lasting(connection: Connection, name: str) -> bool:
    row = connection.execute(select(tokens.c.role, tokens.c.place).where(tokens.c.name == name)).one()
    return row.role in LASTING and (row.place is None or is_region(Place.parse(row.place)))
