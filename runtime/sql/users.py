"""Users: their state, their passwords as they are stored, and what they were given. Clauses 5.4a, 7.2a, 9.3b."""

from __future__ import annotations

import re
import secrets
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, insert, select, update

from domain.errors import Conflict, Forbidden, InvalidInput
from domain.permissions import Reach
from domain.principals import Caller, Factor, Grant, Kind, Principal, check_own_name
from runtime.sql.engine import reading, writing
from runtime.sql.grants import detail_of, grants_of, insert_grant, lasting_users, roles_of, treated_by
from runtime.sql.identity_tables import password_history, second_factors, users
from runtime.sql.lockout import UNLOCKED, LockRule, add_failure, is_locked
from runtime.sql.records import Author, Page, Row, by_platform, log_write, one, page, user_in_log
from runtime.sql.sessions import Ended, end_session
from runtime.sql.tables import patients, tokens
from runtime.sql.within import users_within

FIRST_USER: Final = "administrator"
NOT_CHANGED: Final = "the password cannot be changed: it was given wrongly too often, or there is none"
KEPT_PASSWORDS: Final = 5  # of a user: none of them is taken again
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,63}")
_SHOWN: Final = (
    "id", "name", "status", "must_change", "password_changed_us", "failures", "locked_until_us", "created_us", "last_login_us",
)  # fmt: skip


class UserStatus(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"


def parse_user_name(text: str) -> str:
    """The name as it is kept: in small letters. Raises InvalidInput."""
    name = text.strip().lower()
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{text[:80]!r} is no user name: expected 2 to 64 of a-z, 0-9, '.', '_', '-', such as li.na")
    return name


def create_first_user(engine: Engine, password: str, grant: Grant, *, now_us: int) -> bool:
    """Make the first user, who has to change this password; False when there is a user already.

    A token of an older installation may have the name too: that must not keep the platform from starting.
    """
    author = by_platform("first start", now_us)
    with writing(engine) as connection:
        if connection.execute(select(users.c.id).limit(1)).first() is not None:
            return False
        _create(connection, author, FIRST_USER, password, grant)
        return True


def has_users(engine: Engine) -> bool:
    """Whether there is one: before that no stored password needs a key."""
    with reading(engine) as connection:
        return connection.execute(select(users.c.id).limit(1)).first() is not None


def create_user(engine: Engine, author: Author, name: str, password: str, *given: Grant, patient_key: str | None = None) -> Row:
    """Make a user who has to change this password at the first sign-in, and may do what is granted: without, nothing.

    `patient_key`: it is a patient's own account. Raises Conflict for a name that a user or a token has, or had, and for an
    erased patient, NotFound for an unknown one, InvalidInput for a place that does not exist and for a name that is others'.
    """
    name = parse_user_name(name)
    check_own_name(name)
    taken = (select(users.c.name).where(users.c.name == name), select(tokens.c.name).where(tokens.c.name == name))
    with writing(engine) as connection:
        if any(connection.execute(query).first() is not None for query in taken):
            raise Conflict(f"the name {name!r} is taken, by a user or a token: names are never used again")
        if patient_key is not None:
            patient = select(patients.c.ref).where(patients.c.patient_key == patient_key)
            if one(connection, patient, f"patient {patient_key!r}")["ref"] is None:
                raise Conflict(f"the data of patient {patient_key!r} were erased: they have no account any more")
        return _create(connection, author, name, password, *given, patient_key=patient_key)


def get_user(engine: Engine, name: str, *, now_us: int) -> Row:
    """A user as anybody may see them, with the `roles` of now. Raises NotFound."""
    with reading(engine) as connection:
        return _with_roles(connection, [_shown(connection, name)], now_us)[0]


def called_in_log(engine: Engine, name: str) -> str:
    """What logs call who has this name, also where nobody has it."""
    with reading(engine) as connection:
        return user_in_log(connection, name)


def list_users(
    engine: Engine, *, reach: Reach, region_id: str, now_us: int, limit: int, after: tuple[Any, ...] | None = None
) -> Page:
    """Users within `reach` by name, as anybody may see them, with the `roles` of now."""
    query = select(*(users.c[name] for name in _SHOWN)).where(users_within(reach, region_id))
    with reading(engine) as connection:
        found = page(connection, query, [users.c.name], limit=limit, after=after)
        return Page(_with_roles(connection, found.rows, now_us), found.after)


def as_caller(engine: Engine, name: str, *, now_us: int) -> Caller:
    """A user as they call once signed in with all factors that they have, and with what they have now. Raises NotFound."""
    with reading(engine) as connection:
        columns = (users.c.id, users.c.name, users.c.patient_key)
        row = one(connection, select(*columns).where(users.c.name == name), f"user {name!r}")
        factors = {Factor.PASSWORD, Factor.TOTP} if _with_second_factor(connection, [row["id"]]) else {Factor.PASSWORD}
        return Caller(
            Principal(Kind.USER, row["id"], row["name"], is_patient=row["patient_key"] is not None),
            grants_of(connection, row["id"], now_us=now_us),
            factors=frozenset(factors), patient_key=row["patient_key"],
            treats=treated_by(connection, row["id"], now_us=now_us),
        )  # fmt: skip


def find_for_sign_in(engine: Engine, name: str) -> Row | None:
    """The whole row of a user, stored password included."""
    with reading(engine) as connection:
        row = connection.execute(select(users).where(users.c.name == name)).mappings().one_or_none()
        return None if row is None else dict(row)


def may_sign_in(user: Row, now_us: int) -> bool:
    """Whether a user is neither disabled nor locked now."""
    return user["status"] == UserStatus.ACTIVE and not is_locked(user, now_us)


def kept_passwords(engine: Engine, user_id: str) -> list[str]:
    """As they are stored: the present one, and those before it that must not come back."""
    present = select(users.c.password).where(users.c.id == user_id)
    former = select(password_history.c.password).where(password_history.c.user_id == user_id).order_by(password_history.c.id)
    with reading(engine) as connection:
        return [*connection.execute(present).scalars(), *connection.execute(former).scalars()]


def set_password(
    engine: Engine, author: Author, name: str, password: str, *, must_change: bool, instead_of: str | None = None
) -> Row:
    """Replace a stored password, end the user's session and any lock. Raises NotFound.

    With `instead_of`, as its user does who showed that one: raises Conflict when it is stored no more, and Forbidden for
    a user who was locked or disabled since.
    """
    with writing(engine) as connection:
        user = one(connection, select(users).where(users.c.name == name).with_for_update(), f"user {name!r}")
        if instead_of is not None and user["password"] != instead_of:
            raise Conflict("the password was just changed by somebody else")
        if instead_of is not None and not may_sign_in(dict(user), author.now_us):
            raise Forbidden(NOT_CHANGED)
        connection.execute(insert(password_history).values(user_id=user["id"], password=user["password"]))
        _forget_old(connection, user["id"])
        values = {"password": password, "must_change": must_change, "password_changed_us": author.now_us}
        connection.execute(update(users).where(users.c.id == user["id"]).values(**values, **UNLOCKED))
        end_session(connection, user["id"], Ended.PASSWORD_CHANGED, author.now_us)
        called = user_in_log(connection, name)
        log_write(connection, author, "user.password.reset" if must_change else "user.password.change", called)
        return _with_roles(connection, [_shown(connection, name)], author.now_us)[0]


def disable_user(engine: Engine, author: Author, name: str) -> Row:
    """End the user's session and let them in no more. Raises NotFound, and Conflict for the last administrator."""
    with writing(engine) as connection:
        user = _with_roles(connection, [_shown(connection, name)], author.now_us)[0]
        present = lasting_users(connection, now_us=author.now_us)
        if user["id"] in present and len(present) == 1:
            raise Conflict(f"user {name!r} is the last administrator who can sign in: make another one first")
        end_session(connection, user["id"], Ended.DISABLED, author.now_us)
        return _set(connection, author, user, "user.disable", status=UserStatus.DISABLED.value)


def end_accounts_of(connection: Connection, author: Author, patient_key: str) -> None:
    """Disable a patient's own accounts and end their sessions; part of the caller's transaction."""
    theirs = select(users.c.id).where(users.c.patient_key == patient_key, users.c.status == UserStatus.ACTIVE.value)
    for user_id in connection.execute(theirs.order_by(users.c.id)).scalars().all():
        end_session(connection, user_id, Ended.DISABLED, author.now_us)
        connection.execute(update(users).where(users.c.id == user_id).values(status=UserStatus.DISABLED.value))
        log_write(connection, author, "user.disable", user_id)


def enable_user(engine: Engine, author: Author, name: str) -> Row:
    """Let a disabled user in again, with the password they had. Raises NotFound, Conflict for an erased patient's account."""
    with writing(engine) as connection:
        of_erased = select(users.c.id).join(patients, patients.c.patient_key == users.c.patient_key)
        if connection.execute(of_erased.where(users.c.name == name, patients.c.ref.is_(None))).first() is not None:
            raise Conflict(f"user {name!r} is a patient whose data were erased: that account stays disabled")
        user = _with_roles(connection, [_shown(connection, name)], author.now_us)[0]
        return _set(connection, author, user, "user.enable", status=UserStatus.ACTIVE.value)


def unlock_user(engine: Engine, author: Author, name: str) -> Row:
    """End a lock before its time. Raises NotFound."""
    with writing(engine) as connection:
        user = _with_roles(connection, [_shown(connection, name)], author.now_us)[0]
        return _set(connection, author, user, "user.unlock", **UNLOCKED)


def note_failure(engine: Engine, user_id: str, rule: LockRule, *, now_us: int) -> None:
    """Count a failed sign-in, and lock the user when it is one too many. What fails while locked is not counted."""
    with writing(engine) as connection:
        user = one(connection, select(users).where(users.c.id == user_id).with_for_update(), f"user {user_id!r}")
        add_failure(connection, user, rule, now_us)


def _create(
    connection: Connection, author: Author, name: str, password: str, *given: Grant, patient_key: str | None = None
) -> Row:
    user_id = f"u-{secrets.token_hex(6)}"
    values = {
        "id": user_id, "name": name, "status": UserStatus.ACTIVE.value, "password": password, "must_change": True,
        "password_changed_us": author.now_us, "created_us": author.now_us, "patient_key": patient_key,
    }  # fmt: skip
    connection.execute(insert(users).values(values))
    called = user_in_log(connection, name)
    log_write(connection, author, "user.create", called, None if patient_key is None else {"patient_key": patient_key})
    for grant in given:
        key = insert_grant(connection, author, user_id, grant)
        log_write(connection, author, "grant.give", called, detail_of(grant) | {"grant": key})
    return _with_roles(connection, [_shown(connection, name)], author.now_us)[0]


def _set(connection: Connection, author: Author, user: Row, action: str, **values: Any) -> Row:
    connection.execute(update(users).where(users.c.id == user["id"]).values(values))
    log_write(connection, author, action, user_in_log(connection, user["name"]))
    return user | {name: value for name, value in values.items() if name in user}


def _shown(connection: Connection, name: str) -> Row:
    return one(connection, select(*(users.c[shown] for shown in _SHOWN)).where(users.c.name == name), f"user {name!r}")


def _with_roles(connection: Connection, rows: list[Row], now_us: int) -> list[Row]:
    ids = [row["id"] for row in rows]
    roles, factors = roles_of(connection, ids, now_us=now_us), _with_second_factor(connection, ids)
    return [row | {"roles": sorted(roles.get(row["id"], ())), "second_factor": row["id"] in factors} for row in rows]


def _with_second_factor(connection: Connection, user_ids: list[str]) -> set[str]:
    confirmed = second_factors.c.user_id.in_(user_ids) & second_factors.c.confirmed_us.is_not(None)
    return set(connection.execute(select(second_factors.c.user_id).where(confirmed)).scalars())


def _forget_old(connection: Connection, user_id: str) -> None:
    """All but the newest former ones: the present one is the first of those that are kept."""
    ids = select(password_history.c.id).where(password_history.c.user_id == user_id).order_by(password_history.c.id.desc())
    old = connection.execute(ids.offset(KEPT_PASSWORDS - 1)).scalars().all()
    connection.execute(delete(password_history).where(password_history.c.id.in_(old)))
