"""What rules of the register of risks look at and the business database knows. Clause 6.1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, FromClause, func, or_, select
from sqlalchemy.sql.elements import ColumnElement

from domain.erasures import State
from domain.instants import DAY_US
from domain.risks import LONG_ISOLATED_DAYS, OVERDUE_DAYS, Account, Devices, Overdue, Token
from runtime.sql.credential_tables import device_certificates
from runtime.sql.devices import RETIRED
from runtime.sql.engine import reading
from runtime.sql.identity_tables import grants, second_factors, users
from runtime.sql.isolation_tables import isolations
from runtime.sql.life_tables import erasures
from runtime.sql.retention import expired
from runtime.sql.risks import BACKUP
from runtime.sql.security_tables import security_events
from runtime.sql.sighting_tables import sightings
from runtime.sql.tables import devices, exports, tokens, write_log


@dataclass(frozen=True, slots=True)
class Known:
    """What rules look at and the business database knows."""

    accounts: list[Account]
    tokens: list[Token]
    exports: dict[str, int]
    last_backup_us: int | None
    devices: Devices
    overdue: Overdue
    notices: dict[str, int]


def known(engine: Engine, *, now_us: int, since_us: int, days: Mapping[str, float]) -> Known:
    """Accounts and tokens in force, exports and security events since then, the last backup, devices, what is overdue.

    `days`: how long things are kept, by setting.
    """
    late_us = now_us - OVERDUE_DAYS * DAY_US
    rows = sum(expired(engine, late_us, days).values())
    with reading(engine) as connection:
        backup = select(func.max(write_log.c.at_us)).where(write_log.c.action == BACKUP)
        made = select(exports.c.who, func.count()).where(exports.c.at_us >= since_us).group_by(exports.c.who)
        good = select(tokens.c.name, tokens.c.created_us, tokens.c.last_used_us).where(tokens.c.revoked_us.is_(None))
        return Known(
            _accounts(connection, now_us),
            [Token(*row) for row in connection.execute(good)],
            {str(who): int(count) for who, count in connection.execute(made)},
            connection.execute(backup).scalar_one_or_none(),
            _devices(connection, now_us),
            _overdue(connection, rows, late_us, now_us),
            _notices(connection, since_us),
        )


def _devices(connection: Connection, now_us: int) -> Devices:
    in_service = devices.c.status != RETIRED
    certified = select(device_certificates.c.handle).where(
        device_certificates.c.revoked_us.is_(None), device_certificates.c.until_us > now_us
    )
    alone = devices.c.token_digest.is_(None) & devices.c.handle.not_in(certified)
    came = devices.join(sightings, sightings.c.device_handle == devices.c.handle)
    long_ago_us = now_us - LONG_ISOLATED_DAYS * DAY_US
    is_long = isolations.c.released_us.is_(None) & (isolations.c.isolated_us <= long_ago_us)
    isolated, since_us = connection.execute(select(func.count(), func.min(isolations.c.isolated_us)).where(is_long)).one()
    return Devices(
        _count(connection, devices, in_service),
        _count(connection, came, in_service, sightings.c.over_tls.is_(False)),
        _count(connection, devices, in_service, alone, devices.c.gateway_handle.is_not(None)),
        isolated, (now_us - since_us) // DAY_US if since_us is not None else 0,
    )  # fmt: skip


def _overdue(connection: Connection, rows: int, late_us: int, now_us: int) -> Overdue:
    """Restricted ones wait for the law or a hold, and are late for nobody."""
    running = (erasures.c.state == State.RUNNING.value) & (erasures.c.begun_us <= late_us)
    waiting = (erasures.c.state == State.REQUESTED.value) & (erasures.c.due_us <= late_us)
    since = func.min(func.coalesce(erasures.c.begun_us, erasures.c.due_us))
    count, since_us = connection.execute(select(func.count(), since).where(or_(running, waiting))).one()
    return Overdue(rows, count, (now_us - since_us) // DAY_US if since_us is not None else 0)


def _notices(connection: Connection, since_us: int) -> dict[str, int]:
    made = select(security_events.c.kind, func.sum(security_events.c.count)).where(security_events.c.at_us >= since_us)
    return {str(kind): int(count) for kind, count in connection.execute(made.group_by(security_events.c.kind))}


def _count(connection: Connection, table: FromClause, *conditions: ColumnElement[bool]) -> int:
    return int(connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one())


def _accounts(connection: Connection, now_us: int) -> list[Account]:
    in_force = (grants.c.ended_us.is_(None), or_(grants.c.until_us.is_(None), grants.c.until_us > now_us))
    roles: dict[str, set[str]] = {}
    for principal, role in connection.execute(select(grants.c.principal_id, grants.c.role).where(*in_force)):
        roles.setdefault(principal, set()).add(role)
    confirmed = select(second_factors.c.user_id).where(second_factors.c.confirmed_us.is_not(None))
    factors = set(connection.execute(confirmed).scalars())
    # of patients' own accounts the name may tell whose they are
    rows = connection.execute(select(users).where(users.c.status == "active", users.c.patient_key.is_(None))).mappings()
    return [
        Account(row["name"], frozenset(roles.get(row["id"], ())), row["created_us"], row["last_login_us"], row["id"] in factors)
        for row in rows
    ]
