"""Certificates of hospitals' programs for the bus: asked for by the API, signed by `vitalgrid up`. Clauses 5.4a, 9.4.

A certificate belongs to a token: who has both may hear what the token's role may, and a token that is revoked ends it too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, Engine, func, insert, select, update

from domain.errors import Conflict, InvalidInput, NotFound, Unauthenticated, VitalgridError
from domain.hospital_systems import HospitalSystem
from domain.ids import parse_hospital_id
from domain.principals import Place
from runtime.sql.bus_tables import bus_certificates
from runtime.sql.engine import reading, writing
from runtime.sql.records import Author, Row, log_write
from runtime.sql.tables import tokens
from runtime.tokens import digests_of

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_MOST: Final = 4  # in force of one program: the one in use, its successor, and a spare of each
_SHOWN: Final = ("id", "hospital_id", "certificate", "fingerprint", "made_by", "made_us", "ends_us", "revoked_us")


class Signed(NamedTuple):
    """A certificate with its chain, PEM."""

    pem: str
    fingerprint: str
    ends_us: int


Sign = Callable[[str, str, str], Signed]


def ask_certificate(engine: Engine, author: Author, name: str, request_pem: str, key_digest: str) -> int:
    """Note that token `name` is to have a certificate for the key of a request, which was checked; its number.

    Who asks again for the same key, while what they asked for is in force, is told the same number.

    Raises NotFound for a token that is not in force, InvalidInput for one of more than one hospital, Conflict when it has
    as many as may be, or the key has or had a certificate that is another's or over: each key has one, ever.
    """
    with writing(engine) as connection:
        place = Place.parse(_token_place(connection, name))
        if place.hospital_id is None:
            raise InvalidInput(f"token {name!r} is of {place}: on the bus a program is of one hospital, or a ward of one")
        mine = (bus_certificates.c.token_name == name) & _good(author.now_us)
        if (number := _asked_before(connection, mine, key_digest)) is not None:
            return number
        if connection.execute(select(func.count()).where(mine)).scalar_one() >= _MOST:
            raise Conflict(f"token {name!r} has {_MOST} certificates in force: revoke one first")
        values = {
            "key_digest": key_digest, "token_name": name, "hospital_id": place.hospital_id, "request": request_pem,
            "made_by": author.who, "made_us": author.now_us,
        }  # fmt: skip
        made = insert(bus_certificates).values(values).returning(bus_certificates.c.id)
        number = int(connection.execute(made).scalar_one())
        log_write(connection, author, "bus-certificate.create", name, {"id": number, "hospital": place.hospital_id})
        return number


def _asked_before(connection: Connection, mine: ColumnElement[bool], key_digest: str) -> int | None:
    """The number of a key's certificate, if it is `mine`. Raises Conflict when it is, or was, another's or is over."""
    of_key = select(bus_certificates.c.id, mine).where(bus_certificates.c.key_digest == key_digest)
    found = connection.execute(of_key).one_or_none()
    if found is None:
        return None
    number, is_mine = found
    if not is_mine:
        raise Conflict("the key of the request has, or had, a certificate for the bus: make a new one")
    return int(number)


def revoke_certificate(engine: Engine, author: Author, name: str, number: int) -> None:
    """It opens nothing any more. Raises NotFound, also when it was revoked before."""
    with writing(engine) as connection:
        mine = (bus_certificates.c.id == number) & (bus_certificates.c.token_name == name)
        in_force = update(bus_certificates).where(mine, bus_certificates.c.revoked_us.is_(None))
        if not connection.execute(in_force.values(revoked_us=author.now_us)).rowcount:
            raise NotFound(f"token {name!r} has no certificate {number} in force")
        log_write(connection, author, "bus-certificate.revoke", name, {"id": number})


def certificates_of(engine: Engine, name: str) -> list[Row]:
    """All that a token ever had, the newest first. Raises NotFound when there never was such a token."""
    query = select(*(bus_certificates.c[column] for column in _SHOWN)).where(bus_certificates.c.token_name == name)
    with reading(engine) as connection:
        if connection.execute(select(tokens.c.name).where(tokens.c.name == name)).first() is None:
            raise NotFound(f"no token is, or was, named {name!r}")
        return [dict(row) for row in connection.execute(query.order_by(bus_certificates.c.id.desc())).mappings()]


def check_shown(engine: Engine, number: int, hospital_id: str, token: str, *, now_us: int) -> None:
    """Whether who came by certificate `number` shows the token that it belongs to. Raises Unauthenticated."""
    mine = (bus_certificates.c.id == number) & (bus_certificates.c.hospital_id == hospital_id)
    shown = tokens.c.digest.in_(digests_of(token)) & tokens.c.revoked_us.is_(None)
    query = select(bus_certificates.c.id).join(tokens).where(mine, shown, _good(now_us))
    with reading(engine) as connection:
        if connection.execute(query).first() is None:
            raise Unauthenticated("the token is unknown or revoked, or not the one that this certificate belongs to")


def sign_missing(engine: Engine, sign: Sign, *, now_us: int) -> dict[int, VitalgridError]:
    """Give each certificate that was asked for what `sign` makes of its hospital, the digest of its key, and the request.

    Returns what `sign` raised, by the numbers of those that have none for it: they keep nobody else from theirs.
    """
    missing = select(bus_certificates).where(bus_certificates.c.certificate.is_(None), _good(now_us))
    with reading(engine) as connection:
        asked = connection.execute(missing).mappings().all()
    failed: dict[int, VitalgridError] = {}
    for row in asked:
        try:
            made = sign(row["hospital_id"], row["key_digest"], row["request"])
        except VitalgridError as error:
            failed[int(row["id"])] = error
            continue
        values = {"certificate": made.pem, "fingerprint": made.fingerprint, "ends_us": made.ends_us}
        with writing(engine) as connection:
            connection.execute(update(bus_certificates).where(bus_certificates.c.id == row["id"]).values(values))
    return failed


class LetIn(NamedTuple):
    """`unsound`: numbers of certificates whose rows no write of ours can have made."""

    systems: frozenset[HospitalSystem]
    unsound: frozenset[int]


def let_in(engine: Engine, *, now_us: int) -> LetIn:
    """Who of the hospitals may come to the bus now. What is said goes into the server's configuration: unsound rows do not."""
    columns = (bus_certificates.c[name] for name in ("hospital_id", "id", "key_digest"))
    query = select(*columns, tokens.c.place).join(tokens)
    query = query.where(bus_certificates.c.certificate.is_not(None), tokens.c.revoked_us.is_(None), _good(now_us))
    with reading(engine) as connection:
        rows = connection.execute(query).all()
    systems = [HospitalSystem(*row[:3]) for row in rows if _is_sound(row.hospital_id, row.key_digest, row.place)]
    numbers = {system.number for system in systems}
    return LetIn(frozenset(systems), frozenset(row.id for row in rows if row.id not in numbers))


def _is_sound(hospital_id: str, key_digest: str, place: str | None) -> bool:
    try:
        is_text = _DIGEST.fullmatch(key_digest) is not None
        return is_text and place is not None and Place.parse(place).hospital_id == parse_hospital_id(hospital_id)
    except (InvalidInput, TypeError):  # SQLite keeps what is no text too
        return False


def _good(now_us: int) -> ColumnElement[bool]:
    ends = bus_certificates.c.ends_us
    return bus_certificates.c.revoked_us.is_(None) & (ends.is_(None) | (ends > now_us))


def _token_place(connection: Connection, name: str) -> str:
    query = select(tokens.c.place).where(tokens.c.name == name, tokens.c.revoked_us.is_(None))
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"no token in force is named {name!r}")
    if row.place is None:
        raise InvalidInput(f"token {name!r} is of the whole region: on the bus a program is of one hospital, or a ward of one")
    return str(row.place)
