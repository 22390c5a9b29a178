"""What every write shares: the author, the write log, versions, the outbox; and pages for what every list shares."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, Table, and_, insert, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from domain import subjects
from domain.errors import InvalidInput, NotFound, StaleVersion
from domain.labels import LABELS
from domain.messages import Control, encode
from domain.permissions import Level
from domain.principals import PLATFORM
from runtime.data_keys import Owner
from runtime.sql.engine import writing
from runtime.sql.identity_tables import users
from runtime.sql.sealed import shut_write
from runtime.sql.tables import hospitals, outbox, write_log

Row = dict[str, Any]
_TARGET_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes, why, and when (UTC microseconds). `is_platform`: nobody does, and the reason is a sentence of ours."""

    who: str
    reason: str | None
    now_us: int
    is_platform: bool = False


def by_platform(reason: str, now_us: int) -> Author:
    """The platform itself writes. `reason` says nothing of anybody: it is kept in clear, so that it needs no key."""
    return Author(PLATFORM, reason, now_us, is_platform=True)


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of a list, and the key to go on behind (None at the end)."""

    rows: list[Row]
    after: tuple[Any, ...] | None


def log_write(
    connection: Connection, author: Author, action: str, target: str, detail: Mapping[str, Any] | None = None,
    *, about: Owner | None = None,
) -> None:  # fmt: skip
    """Append to the write log; part of the caller's transaction.

    `target` and `detail` never hold names of people. What somebody wrote freely, the reason and a `note` in the detail,
    is sealed: with the key of the patient whom it is `about`, so that it ends with the rest of what is known of them. What
    the platform writes of its own accord is not: locks and ended sessions must not wait for keys.
    """
    values = {
        "at_us": author.now_us, "who": author.who, "action": action, "target": target[:_TARGET_CHARS],
        "reason": author.reason, "detail": detail,
    }  # fmt: skip
    shut = values if author.is_platform else shut_write(connection, values, about)
    connection.execute(insert(write_log).values(shut))


def user_in_log(connection: Connection, name: str) -> str:
    """What the write log calls a user: a patient by the id of their account, because what is in clear there stays for ever."""
    patient = select(users.c.id).where(users.c.name == name, users.c.patient_key.is_not(None))
    return connection.execute(patient).scalar_one_or_none() or name


def note_write(engine: Engine, author: Author, action: str, target: str, detail: Mapping[str, Any] | None = None) -> None:
    """Append to the write log what was ordered and is kept nowhere else in the database."""
    with writing(engine) as connection:
        log_write(connection, author, action, target, detail)


def tell_hosts(connection: Connection, author: Author, hospital_id: str, *messages: Control) -> None:
    """Put control messages for a hospital's shard into the outbox, in order; part of the caller's transaction."""
    if not messages:
        return
    subject = subjects.control(shard_of(connection, hospital_id))
    rows = [{"subject": subject, "payload": encode(message), "created_us": author.now_us} for message in messages]
    connection.execute(insert(outbox), rows)


def check_text(text: str | None, what: str, longest: int) -> None:
    """Raise InvalidInput unless `text` is missing or of 1 to `longest` characters; never quotes it."""
    if text is not None and not 1 <= len(text.strip()) <= len(text) <= longest:
        raise InvalidInput(f"{what} has {len(text.strip())} characters: expected 1 to {longest}")


def check_level(kind: str, level: int | None) -> None:
    """Raise InvalidInput unless a record of this kind may be at `level`: at its class's, or above."""
    if level is not None and level not in range(LABELS[kind], Level.STRICT + 1):
        raise InvalidInput(f"level {level} is not one of {kind}: expected {LABELS[kind]:d} to {Level.STRICT:d}")


def check_json(value: object, what: str) -> None:
    """Raise InvalidInput for what JSON in UTF-8 cannot hold, such as NaN or half a surrogate pair; never quotes it."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{what} cannot be kept as JSON ({type(error).__name__}): expected text in UTF-8 and finite numbers"
        ) from None


def check_fields(what: str, values: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Raise InvalidInput when a change names a field that cannot be changed."""
    unknown = sorted(set(values) - set(allowed))
    if unknown:
        raise InvalidInput(f"fields {unknown} of a {what} cannot be changed: expected some of {', '.join(allowed)}")


def shard_of(connection: Connection, hospital_id: str) -> int:
    """The shard of a hospital; raises NotFound."""
    shard = connection.execute(select(hospitals.c.shard).where(hospitals.c.id == hospital_id)).scalar_one_or_none()
    if shard is None:
        raise NotFound(f"hospital {hospital_id!r} is unknown: register it first")
    return int(shard)


def one(connection: Connection, query: Select[Any], what: str, values: Mapping[str, Any] | None = None) -> Row:
    """The only row of `query`, with these `values` of its parameters; raises NotFound naming `what`."""
    row = connection.execute(query, values).mappings().one_or_none()
    if row is None:
        raise NotFound(f"{what} is unknown")
    return dict(row)


def change(
    connection: Connection, table: Table, key: Mapping[str, Any], values: Mapping[str, Any], *, version: int | None, what: str
) -> Row:
    """Update one row and count its version up.

    With `version`, only if the row is still at it: raises StaleVersion when somebody was faster. Raises NotFound.
    """
    match = and_(*(table.c[name] == value for name, value in key.items()))
    row = one(connection, select(table).where(match).with_for_update(), what)
    if version is not None and row["version"] != version:
        raise StaleVersion(f"{what} is at version {row['version']}, the change was made for version {version}: read it again")
    connection.execute(update(table).where(match).values(**values, version=row["version"] + 1))
    return {**row, **values, "version": row["version"] + 1}


def page(
    connection: Connection, query: Select[Any], keys: Sequence[ColumnElement[Any]], *, limit: int,
    after: tuple[Any, ...] | None, descending: bool = False,
) -> Page:  # fmt: skip
    """One page of `query` in the order of `keys` (unique together), going on behind the key `after`."""
    if after is not None:
        query = query.where(_behind(keys, after, descending=descending))
    order = [key.desc() if descending else key.asc() for key in keys]
    rows = [dict(row) for row in connection.execute(query.order_by(*order).limit(limit + 1)).mappings()]
    more = len(rows) > limit
    rows = rows[:limit]
    names = [str(getattr(key, "name", key)) for key in keys]
    return Page(rows, tuple(rows[-1][name] for name in names) if more else None)


def _behind(keys: Sequence[ColumnElement[Any]], after: tuple[Any, ...], *, descending: bool) -> ColumnElement[bool]:
    """(k1, k2) > (a1, a2), written out so that every database uses its index."""
    terms = []
    for number, (key, value) in enumerate(zip(keys, after, strict=True)):
        equal = [earlier == given for earlier, given in zip(keys[:number], after[:number], strict=True)]
        terms.append(and_(*equal, key < value if descending else key > value))
    return or_(*terms)
