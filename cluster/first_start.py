"""What a first start makes so that somebody can come in: a key for passwords, an administrator, this machine's token."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sqlalchemy import Engine

from cluster.connection import admin_token_file, first_password_file
from domain.principals import Place
from runtime.clock import SystemClock
from runtime.durable import write_secret
from runtime.keys import KeyProvider, make_missing
from runtime.password_hashes import PasswordHashes
from runtime.password_policy import first_password
from runtime.settings import SecuritySettings, Settings
from runtime.soft_keys import SoftKeys
from runtime.sql.access import create_first_administrator
from runtime.sql.second_factors import has_second_factors
from runtime.sql.users import create_first_user, has_users

logger = logging.getLogger(__name__)

_PEPPER = "pepper"
_TOTP = "totp"


@dataclass(frozen=True, slots=True)
class FirstCredentials:
    """What was made just now, and can be told this once."""

    token: str | None = None
    password: str | None = None


def password_hashes(keys: KeyProvider, settings: SecuritySettings) -> PasswordHashes:
    """Passwords as the settings want them stored."""
    return PasswordHashes(keys, iterations=settings.password_iterations, scheme=settings.password_scheme)


def prepare_accounts(engine: Engine, settings: Settings) -> FirstCredentials:
    """Make what is not there yet: the first token for this machine's commands, and the first user."""
    data_dir, now_us = settings.data_dir.resolve(), SystemClock().now_us()
    token = create_first_administrator(engine, now_us=now_us)
    if token is not None:
        write_secret(admin_token_file(data_dir), token.encode())
    return FirstCredentials(token, _first_user(engine, settings, now_us))


def _first_user(engine: Engine, settings: Settings, now_us: int) -> str | None:
    """Their password, or None when there are users. Killed halfway, the next start makes another one."""
    keys = SoftKeys(settings.keys_dir)
    if has_second_factors(engine):
        if not keys.versions(_TOTP):  # never made anew: the seeds it sealed would be lost with no word why
            logger.error("nobody can show a second factor: key %s is missing, restore %s", _TOTP, settings.keys_dir)
    else:
        make_missing(keys, [_TOTP])
    if has_users(engine):
        if not keys.versions(_PEPPER):  # never made anew: it would turn every password wrong with no word why
            logger.error("nobody can sign in with a password: key %s is missing, restore %s", _PEPPER, settings.keys_dir)
        return None
    make_missing(keys, [_PEPPER])
    password = first_password()
    stored = password_hashes(keys, settings.security).make(password)
    write_secret(first_password_file(settings.data_dir.resolve()), password.encode())
    create_first_user(engine, stored, Place(settings.region_id), now_us=now_us)
    return password
