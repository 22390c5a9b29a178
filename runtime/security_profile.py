"""Security profiles: what an installation may do in clear. A setting may be stricter than its profile, never laxer.

`standard`, unless something else is said: every port speaks TLS, with certificates that are given or else the platform's
own (`cluster.pki`), and so does what the platform opens itself (`runtime.outgoing_links`); API and doors may answer other
machines. Stored passwords are as slow to try as is asked today,
administrators, local operators and privacy officers have a second factor, and nobody may everything: the first user gives
rights, this machine's token orders.

`dev`: for tests and trials on one machine. API and doors answer on loopback only; links within it may do without TLS. The first
user and this machine's token are administrators, who may everything.

`cn`: as `standard`, with data at rest sealed under national cryptography: files of the lake, snapshots and what alarms say with
SM4-GCM, passwords hashed with PBKDF2 over HMAC-SM3. nats-server's store is encrypted too, which it can with AES only.

Called *security* profile, because a profile alone is a topology here (`docs/clauses.toml`).
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Final

from domain.loopback import is_loopback
from domain.principals import POWERFUL, Role

LEAST_ITERATIONS: Final = 600_000  # as OWASP's password storage cheat sheet asks of PBKDF2 with a hash of 256 bits


class SecurityProfile(StrEnum):
    DEV = "dev"
    STANDARD = "standard"
    CN = "cn"


class SecondFactorRule(StrEnum):
    """Which users have to have a second factor, the laxest first. `administrators`: those with such power (`POWERFUL`)."""

    NOBODY = "nobody"
    ADMINISTRATORS = "administrators"
    EVERYBODY = "everybody"

    def is_for(self, roles: Collection[Role]) -> bool:
        """Whether a user with these roles has to have one."""
        return self is SecondFactorRule.EVERYBODY or (
            self is SecondFactorRule.ADMINISTRATORS and not POWERFUL.isdisjoint(roles)
        )


class PasswordScheme(StrEnum):
    """How a password is made slow to try."""

    PBKDF2_SM3 = "pbkdf2-sm3"
    ARGON2ID = "argon2id"


def least_second_factor(profile: SecurityProfile) -> SecondFactorRule:
    """Who has to have a second factor at least."""
    return SecondFactorRule.NOBODY if profile is SecurityProfile.DEV else SecondFactorRule.ADMINISTRATORS


def too_lax_accounts(
    profile: SecurityProfile, second_factor: SecondFactorRule | None, password_scheme: PasswordScheme
) -> list[str]:
    """As `contradictions`, of what the profile says of users. `second_factor` None: as the profile wants it."""
    found, least = [], least_second_factor(profile)
    order = list(SecondFactorRule)
    if second_factor is not None and order.index(second_factor) < order.index(least):
        found.append(f"security.second_factor is {second_factor}: security profile {profile} expects {least}, or more of them")
    if profile is SecurityProfile.CN and password_scheme is PasswordScheme.ARGON2ID:
        found.append(
            f"security.password_scheme is {password_scheme}: security profile {profile} expects national cryptography, "
            f"{PasswordScheme.PBKDF2_SM3}"
        )
    return found


def contradictions(
    profile: SecurityProfile,
    *,
    api_host: str,
    doors_host: str,
    password_iterations: int,
    seal_files: bool | None = None,
    bus_host: str = "127.0.0.1",
) -> list[str]:
    """Each setting that is laxer than the profile allows, as a sentence that says what was expected."""
    if profile is not SecurityProfile.DEV:
        found = []
        if password_iterations < LEAST_ITERATIONS:
            given = f"security.password_iterations is {password_iterations:,}"
            found.append(f"{given}: security profile {profile} expects {LEAST_ITERATIONS:,} or more")
        if profile is SecurityProfile.CN and seal_files is False:
            found.append(f"security.seal_files is false: security profile {profile} always seals")
        return found
    return [
        f"{key} is {host}: expected a loopback address such as 127.0.0.1 in security profile dev; "
        f"other machines are for security profile {SecurityProfile.STANDARD}"
        for key, host in (("api.host", api_host), ("doors.host", doors_host), ("bus.host", bus_host)) if not is_loopback(host)
    ]  # fmt: skip
