"""What a first start makes so that somebody can come in: a key for passwords, an administrator, this machine's token."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass

from sqlalchemy import Engine

from cluster.connection import admin_token_file, first_password_file
from domain.errors import IntegrityViolation, Unavailable
from domain.principals import Grant, Place, Role
from runtime.clock import SystemClock
from runtime.durable import write_secret
from runtime.key_provider import provider_of
from runtime.keys import KEYS, KeyGone, KeyProvider, finish_destroying, make_missing, newest
from runtime.password_hashes import PasswordHashes
from runtime.password_policy import first_password
from runtime.sealing import SEALING_KEYS, Sealer
from runtime.second_factors import SecondFactors
from runtime.security_profile import SecurityProfile
from runtime.setting_sections import SecuritySettings
from runtime.settings import Settings
from runtime.sql.access import create_first_token, named_as_others, tokens_of_people
from runtime.sql.blind_indexes import index_anew
from runtime.sql.engine import has_sealed, migrate
from runtime.sql.grants import omnipotent
from runtime.sql.patients import destroy_erased_again
from runtime.sql.restored_erasures import erase_again
from runtime.sql.sealed_accounts import seal_seeds_anew
from runtime.sql.second_factors import has_second_factors
from runtime.sql.users import create_first_user, has_users

logger = logging.getLogger(__name__)

_PEPPER = "pepper"
_TOTP = "totp"
_SHUT = (KeyGone, IntegrityViolation, Unavailable)  # a key is away or damaged: no reason for vitals and alarms to stop


@dataclass(frozen=True, slots=True)
class FirstCredentials:
    """What was made just now, and can be told this once."""

    token: str | None = None
    password: str | None = None


def sealer_of(settings: Settings) -> Sealer:
    """What seals and opens in the business database. Reads nothing yet."""
    return Sealer.over(provider_of(settings), settings.keys_dir, seals_values=settings.seals_files)


def prepare_database(engine: Engine, settings: Settings, sealer: Sealer) -> None:
    """Bring the schema up to date; for a database that has nothing sealed yet, make the keys that is done with.

    When something is sealed and keys are lost or damaged, none are made: new ones would open none of it. Vitals and alarms
    go on without names; whatever needs a name is refused until the keys are back.
    """
    keys = provider_of(settings)
    for name in KEYS:
        with contextlib.suppress(*_SHUT):  # a damaged one is told of where it is used
            finish_destroying(keys, name)
    if not has_sealed(engine):
        for name in SEALING_KEYS:
            _is_usable(keys, name, may_make=True)
        sealer.data_keys.create()
    missing = [f"key {name}" for name in SEALING_KEYS if not _is_usable(keys, name)]
    if not sealer.data_keys.exists():
        missing.append("the store of data keys")
    migrate(engine)
    if missing:
        _say_shut(f"{' and '.join(missing)} missing or damaged", settings)
        return
    try:
        _look_after_what_is_sealed(engine, sealer)
    except _SHUT as error:
        _say_shut(str(error), settings)


def _say_shut(why: str, settings: Settings) -> None:
    says = "no name of a patient can be read or written: %s; restore %s: nothing else opens what is sealed"
    logger.error(says, why, settings.keys_dir)


def _is_usable(keys: KeyProvider, name: str, *, may_make: bool = False) -> bool:
    """Whether the key is there and whole; what is damaged is logged. `may_make`: make it if there is none."""
    try:
        if may_make:
            make_missing(keys, [name])
        return bool(keys.versions(name))
    except (KeyGone, IntegrityViolation) as error:
        logger.error("key %s is damaged: %s", name, error)
        return False


def _look_after_what_is_sealed(engine: Engine, sealer: Sealer) -> None:
    """Do what a rotation or an erasure that was killed has left, or what a restored copy has brought back."""
    if count := sealer.data_keys.wrap_anew():
        logger.info("data keys wrapped under the newest key: %d", count)
    if count := index_anew(engine):
        logger.info("references indexed under the newest key: %d", count)
    if count := sealer.data_keys.destroy_listed() + destroy_erased_again(engine):
        logger.warning("data keys of erased patients were there again, and are destroyed again: %d", count)
    if count := erase_again(engine, sealer.data_keys.destroyed(), SystemClock().now_us()):
        logger.warning("persons who were erased were there again, and are being erased again: %d", count)


def password_hashes(keys: KeyProvider, settings: SecuritySettings) -> PasswordHashes:
    """Passwords as the settings want them stored."""
    return PasswordHashes(keys, iterations=settings.password_iterations, scheme=settings.password_scheme)


def token_role(settings: Settings) -> Role:
    """What this machine's commands may do: give orders, and read nothing of any patient."""
    return Role.ADMINISTRATOR if settings.security.profile is SecurityProfile.DEV else Role.LOCAL_OPERATOR


def user_role(settings: Settings) -> Role:
    """What the first user may do: give rights to others, the other two administrators among them."""
    return Role.ADMINISTRATOR if settings.security.profile is SecurityProfile.DEV else Role.SECURITY_ADMINISTRATOR


def prepare_accounts(engine: Engine, settings: Settings) -> FirstCredentials:
    """Make what is not there yet: the first token for this machine's commands, and the first user.

    What was made by an earlier start keeps its role, in whatever profile that was.
    """
    data_dir, now_us = settings.data_dir.resolve(), SystemClock().now_us()
    token = create_first_token(engine, token_role(settings), now_us=now_us)
    if token is not None:
        write_secret(admin_token_file(data_dir), token.encode())
    return FirstCredentials(token, _first_user(engine, settings, now_us))


def accounts_of_before(engine: Engine, settings: Settings) -> list[str]:
    """A sentence about each account that may more than one that is made today, or is called as none is."""
    names = [] if settings.security.profile is SecurityProfile.DEV else omnipotent(engine, now_us=SystemClock().now_us())
    says = [f"{name} may everything, as of old: docs/howto/users.md says how to take that away" for name in names]
    remedy = "vitalgrid token revoke, and a user for the person"
    says += [f"token {name} is a {role}, as only a person should be: {remedy}" for name, role in tokens_of_people(engine)]
    remedy = "make another one by another name, and revoke or disable this one"
    return says + [f"{name} is called as logs call a {other}: {remedy}" for name, other in named_as_others(engine)]


def _first_user(engine: Engine, settings: Settings, now_us: int) -> str | None:
    """Their password, or None when there are users. Killed halfway, the next start makes another one."""
    keys, is_first = provider_of(settings), not has_users(engine)
    # None is made anew where it was used: seeds would be lost, and passwords turn wrong, with no word why.
    if not _is_usable(keys, _TOTP, may_make=not has_second_factors(engine)):
        says = "nobody can show a second factor: key %s is missing or damaged, restore %s"
        logger.error(says, _TOTP, settings.keys_dir)
    else:
        with contextlib.suppress(*_SHUT):  # an older version that is away: told of where a code is shown
            seal_seeds_anew(engine, SecondFactors(keys), newest(keys, _TOTP))
    if not _is_usable(keys, _PEPPER, may_make=is_first):
        says = "nobody can sign in with a password: key %s is missing or damaged, restore %s"
        logger.error(says, _PEPPER, settings.keys_dir)
        return None
    if not is_first:
        return None
    password = first_password()
    stored = password_hashes(keys, settings.security).make(password)
    write_secret(first_password_file(settings.data_dir.resolve()), password.encode())
    create_first_user(engine, stored, Grant(user_role(settings), Place(settings.region_id)), now_us=now_us)
    return password
