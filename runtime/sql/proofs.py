"""What a user shows beside the password, taken once. Clauses 5.4a, 7.2a."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select, update

from domain.errors import SecondFactorRequired, SecondFactorWrong, Unauthenticated
from domain.principals import Factor
from runtime.second_factors import Shown
from runtime.sql.identity_tables import recovery_codes, second_factors
from runtime.sql.lockout import LockRule, add_failure
from runtime.sql.records import Row


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of the proofs that a user gave.

    `rehashed` takes the place of the stored password that was right. `shown`: beside the password; what is wrong counts
    as a failure by `lock`. `was_shown`: in the session from which this one goes on.
    """

    lock: LockRule
    rehashed: str | None = None
    shown: Shown | None = None
    was_shown: bool = False


def factors_shown(connection: Connection, user: Row, proof: Proof | None, now_us: int) -> tuple[str, Unauthenticated | None]:
    """The factors that were shown, as `sessions` keeps them, or why they are not enough, which is counted here.

    To be raised behind the caller's transaction, so that what was counted stands.
    """
    factor = select(second_factors.c.user_id).where(second_factors.c.user_id == user["id"])
    if connection.execute(factor.where(second_factors.c.confirmed_us.is_not(None))).first() is None:
        return Factor.PASSWORD, None
    both = f"{Factor.PASSWORD} {Factor.TOTP}"
    if proof is not None and proof.was_shown:
        return both, None
    if proof is None or proof.shown is None:
        return "", SecondFactorRequired("the password is right; the user has a second factor: send a one-time code as well")
    if spend(connection, user["id"], proof.shown, now_us):
        return both, None
    add_failure(connection, user, proof.lock, now_us)
    return "", SecondFactorWrong("the password is right, and the code is not, or was used before: wait for the next one")


def spend(connection: Connection, user_id: str, shown: Shown, now_us: int) -> bool:
    """Whether what was shown is good now, as it never will be again; part of the caller's transaction.

    One statement asks and takes it, so that of two who come with one code at once one is let in.
    """
    if shown.step is not None:
        mine = (second_factors.c.user_id == user_id) & second_factors.c.confirmed_us.is_not(None)
        later = update(second_factors).where(mine, second_factors.c.last_step < shown.step).values(last_step=shown.step)
        return connection.execute(later).rowcount == 1
    if shown.recovery_digest is None:
        return False
    mine = (recovery_codes.c.user_id == user_id) & (recovery_codes.c.digest == shown.recovery_digest)
    use = update(recovery_codes).where(mine, recovery_codes.c.used_us.is_(None)).values(used_us=now_us)
    return connection.execute(use).rowcount == 1
