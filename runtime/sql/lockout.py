"""Failed sign-ins, and the lock that too many of them bring. Clause 7.2a."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, update

from runtime.sql.identity_tables import users
from runtime.sql.records import by_platform, log_write, user_in_log

UNLOCKED: Final[dict[str, Any]] = {"failures": 0, "failing_since_us": None, "locked_until_us": None}


@dataclass(frozen=True, slots=True)
class LockRule:
    """So many failures in a row, each within `lock_us` of the first, lock a user for `lock_us`."""

    failures: int
    lock_us: int


def is_locked(user: Mapping[str, Any], now_us: int) -> bool:
    """Whether a row of `users` is locked now."""
    return user["locked_until_us"] is not None and now_us < user["locked_until_us"]


def add_failure(connection: Connection, user: Mapping[str, Any], rule: LockRule, now_us: int) -> None:
    """Count a failure of a user, whose row is held for an update, and lock them when it is one too many.

    What fails while they are locked is not counted.
    """
    if is_locked(user, now_us):
        return
    since_us, failures = user["failing_since_us"], user["failures"] + 1
    if since_us is None or now_us - since_us >= rule.lock_us:
        since_us, failures = now_us, 1
    values: dict[str, Any] = {"failing_since_us": since_us, "failures": failures, "locked_until_us": None}
    if failures >= rule.failures:
        values = UNLOCKED | {"locked_until_us": now_us + rule.lock_us}
        who = user_in_log(connection, user["name"])
        log_write(connection, by_platform(f"{failures} sign-ins failed", now_us), "user.lock", who)
    connection.execute(update(users).where(users.c.id == user["id"]).values(values))
