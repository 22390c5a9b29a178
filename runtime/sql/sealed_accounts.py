"""What of users is under keys: seeds of second factors, sealed with `totp`; passwords, made with `pepper`. Clause 7.2c."""

from __future__ import annotations

import logging
from collections import Counter

from sqlalchemy import Column, Engine, delete, select, update

from domain.errors import IntegrityViolation
from runtime.keys import KeyGone
from runtime.password_hashes import pepper_of
from runtime.second_factors import SecondFactors
from runtime.sql.engine import reading, writing
from runtime.sql.identity_tables import password_history, second_factors, users

logger = logging.getLogger(__name__)


def seal_seeds_anew(engine: Engine, factors: SecondFactors, version: int) -> int:
    """Seal under `version`, the newest of the key, the seeds that are under another one; how many. All of them, or none.

    One that does not open stays as it is, and is named in the log.
    """
    count = 0
    with writing(engine) as connection:
        for user_id, seed in connection.execute(select(second_factors.c.user_id, second_factors.c.seed)).all():
            if factors.sealed_under(seed) == version:
                continue
            try:
                anew = factors.sealed_anew(user_id, seed)
            except (IntegrityViolation, KeyGone):
                logger.error("the seed of a second factor does not open: vitalgrid user reset-factor", extra={"user": user_id})
                continue
            connection.execute(update(second_factors).where(second_factors.c.user_id == user_id).values(seed=anew))
            count += 1
    return count


def seeds_under(engine: Engine, factors: SecondFactors) -> Counter[int]:
    """How many seeds each version of the key seals."""
    with reading(engine) as connection:
        return Counter(map(factors.sealed_under, connection.execute(select(second_factors.c.seed)).scalars()))


def passwords_under(engine: Engine) -> Counter[int]:
    """With which versions of the pepper the passwords of users were made."""
    return _peppers(engine, users.c.password)


def former_passwords_under(engine: Engine) -> Counter[int]:
    """The same of passwords that were replaced, which must not come back."""
    return _peppers(engine, password_history.c.password)


def forget_former_passwords(engine: Engine, version: int) -> int:
    """Delete replaced passwords that were made with this version of the pepper; how many. Users may choose them again."""
    with writing(engine) as connection:
        rows = connection.execute(select(password_history.c.id, password_history.c.password)).all()
        gone = [key for key, stored in rows if pepper_of(stored) == version]
        for key in gone:
            connection.execute(delete(password_history).where(password_history.c.id == key))
        return len(gone)


def users_under(engine: Engine, version: int) -> list[str]:
    """Names of users whose password was made with this version of the pepper."""
    with reading(engine) as connection:
        rows = connection.execute(select(users.c.name, users.c.password).order_by(users.c.name)).all()
        return [name for name, stored in rows if pepper_of(stored) == version]


def _peppers(engine: Engine, column: Column[str]) -> Counter[int]:
    with reading(engine) as connection:
        return Counter(map(pepper_of, connection.execute(select(column)).scalars()))
