"""A first start makes what one needs to come in, once; a later one makes nothing, even when something is missing."""

from __future__ import annotations

import logging
import shutil

import pytest

from cluster.connection import admin_token_file, first_password_file
from cluster.first_start import FirstCredentials, prepare_accounts
from runtime.keys import KeyMissing
from runtime.password_hashes import PasswordHashes
from runtime.second_factors import SecondFactors
from runtime.settings import Settings
from runtime.soft_keys import SoftKeys
from runtime.sql import access, second_factors, users
from runtime.sql.engine import migrate, open_engine
from tests.sql_fixtures import ADA


@pytest.fixture
def settings(tmp_path):
    return Settings(data_dir=tmp_path, security={"password_iterations": 1_000})


@pytest.fixture
def business(settings):
    """The business database of `settings`."""
    opened = open_engine(settings.sql_url)
    migrate(opened)
    yield opened
    opened.dispose()


def is_right(settings, business, password):
    hashes = PasswordHashes(SoftKeys(settings.keys_dir), iterations=1_000)
    return hashes.check(password, users.find_for_sign_in(business, users.FIRST_USER)["password"])


@pytest.mark.clause("9.3b")
def test_a_first_start_makes_a_user_and_a_token_and_the_next_one_nothing(settings, business):
    first = prepare_accounts(business, settings)
    assert is_right(settings, business, first.password)
    assert first_password_file(settings.data_dir).read_text() == first.password
    assert access.authenticate(business, admin_token_file(settings.data_dir).read_text())["name"] == "admin"
    assert users.get_user(business, users.FIRST_USER, now_us=1)["must_change"]
    assert prepare_accounts(business, settings) == FirstCredentials()
    assert is_right(settings, business, first.password)


def test_an_installation_of_before_gets_its_first_user_whatever_its_tokens_are_called(settings, business):
    access.create_first_administrator(business, now_us=1)
    access.create_token(business, ADA, users.FIRST_USER)
    made = prepare_accounts(business, settings)
    assert made.token is None
    assert is_right(settings, business, made.password)


@pytest.mark.clause("7.2c")
def test_a_lost_key_is_said_and_never_made_anew(settings, business, caplog):
    password = prepare_accounts(business, settings).password
    shutil.rmtree(settings.keys_dir)
    with caplog.at_level(logging.ERROR):
        assert prepare_accounts(business, settings) == FirstCredentials()
    assert "nobody can sign in with a password" in caplog.text
    with pytest.raises(KeyMissing):
        is_right(settings, business, password)


@pytest.mark.clause("7.2c")
def test_a_key_for_second_factors_is_made_until_there_is_one_and_its_loss_said(settings, business, caplog):
    keys = SoftKeys(settings.keys_dir)
    prepare_accounts(business, settings)
    shutil.rmtree(settings.keys_dir / "totp")  # as in an installation of before
    prepare_accounts(business, settings)
    assert keys.versions("totp") == (1,)
    user = users.find_for_sign_in(business, users.FIRST_USER)
    second_factors.propose(business, ADA, user["id"], SecondFactors(keys).make(user["id"])[1])
    prepare_accounts(business, settings)
    assert caplog.text == ""
    shutil.rmtree(settings.keys_dir / "totp")
    with caplog.at_level(logging.ERROR):
        prepare_accounts(business, settings)
    assert "nobody can show a second factor" in caplog.text
    assert keys.versions("totp") == ()
