"""A first start makes what one needs to come in, once; a later one makes nothing, even when something is missing."""

from __future__ import annotations

import logging
import shutil

import pytest
from sqlalchemy import update

from cluster.connection import admin_token_file, first_password_file
from cluster.first_start import FirstCredentials, accounts_of_before, prepare_accounts, prepare_database, sealer_of
from domain.alarms import Outcome
from domain.fleet_manifest import Tier
from domain.principals import Role
from runtime.keys import KeyMissing
from runtime.password_hashes import PasswordHashes
from runtime.second_factors import SecondFactors
from runtime.settings import Settings
from runtime.soft_keys import SoftKeys
from runtime.sql import access, alarms, grants, patients, places, second_factors, users
from runtime.sql.engine import open_engine, writing
from runtime.sql.identity_tables import users as user_table
from runtime.sql.patients import NewPatient
from runtime.sql.sealed import DAMAGED
from runtime.sql.sealed import sealer_of as sealer_of_engine
from runtime.sql.tables import tokens
from tests.contracts.test_sealed import alarm_of
from tests.sql_fixtures import ADA, ALL, HOSPITAL


@pytest.fixture
def settings(tmp_path):
    return Settings(data_dir=tmp_path, security={"profile": "dev", "password_iterations": 1_000})


@pytest.fixture
def business(settings):
    """The business database of `settings`."""
    sealer = sealer_of(settings)
    opened = open_engine(settings.sql_url, sealer)
    prepare_database(opened, settings, sealer)
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


@pytest.mark.clause("9.3b")
def test_beyond_dev_nobody_is_made_who_may_everything(tmp_path, business):
    settings = Settings(data_dir=tmp_path)
    prepare_accounts(business, settings)
    token = access.authenticate(business, admin_token_file(tmp_path).read_text())
    assert (token["name"], token["role"]) == ("local-operator", Role.LOCAL_OPERATOR)
    assert users.get_user(business, users.FIRST_USER, now_us=1)["roles"] == [Role.SECURITY_ADMINISTRATOR]
    assert grants.omnipotent(business, now_us=1) == []


@pytest.mark.clause("9.3b")
def test_who_may_everything_is_named(settings, business):
    prepare_accounts(business, settings)
    assert grants.omnipotent(business, now_us=1) == ["token admin", "user administrator"]


@pytest.mark.clause("9.3b")
def test_tokens_of_peoples_roles_that_were_made_before_are_named(settings, business):
    prepare_accounts(business, settings)
    access.create_token(business, ADA, "display", Role.STATION)
    for name, role in (("sneaky", Role.DOCTOR), ("gone", Role.NURSE)):
        access.create_token(business, ADA, name, role)
    access.revoke_token(business, ADA, "gone")
    (says,) = accounts_of_before(business, settings)
    assert says.startswith("token sneaky is a doctor")


@pytest.mark.clause("9.3e")
def test_who_was_called_as_logs_call_others_before_is_named_and_goes_on(settings, business):
    prepare_accounts(business, settings)
    names = ["planner", "gone", "li.na", "zhang.min", "wu.di"]
    tokens_of = {name: access.create_token(business, ADA, name, Role.STATION) for name in names[:2]}
    for name in names[2:]:
        users.create_user(business, ADA, name, "stored")
    access.revoke_token(business, ADA, "gone")
    users.disable_user(business, ADA, "zhang.min")
    with writing(business) as connection:  # as they could be called before
        for table, name, former in (
            (tokens, "sz.h001/mon-1", "planner"), (tokens, "os:root", "gone"), (user_table, "vitalgrid", "li.na"),
            (user_table, "u-0123456789ab", "zhang.min"),
        ):  # fmt: skip
            connection.execute(update(table).where(table.c.name == former).values(name=name))
        # a patient's account is told of by its id alone
        connection.execute(update(user_table).where(user_table.c.name == "wu.di").values(name="10.0.0.7", patient_key="0" * 32))
    says = accounts_of_before(business, settings)
    assert [one.partition(":")[0] for one in says] == [
        "token sz.h001/mon-1 is called as logs call a device", "user vitalgrid is called as logs call a platform",
    ]  # fmt: skip
    assert access.authenticate(business, tokens_of["planner"])["name"] == "sz.h001/mon-1"


def test_an_installation_of_before_gets_its_first_user_whatever_its_tokens_are_called(settings, business):
    access.create_first_token(business, Role.ADMINISTRATOR, now_us=1)
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
def test_without_the_keys_of_names_alarms_go_on_and_no_new_keys_are_made(settings, business, tmp_path, caplog):
    places.create_hospital(business, ADA, hospital_id=HOSPITAL, name="h", tier=Tier.PRIMARY, bed_count=9, shards=1)
    key = patients.admit_patient(business, ADA, HOSPITAL, NewPatient("MRN-1", "王小明"))["patient_key"]
    alarms.apply_alarm_events(business, [(1, alarm_of(key))])
    alarms.acknowledge(business, ADA, "a1", Outcome.ACTIONABLE, note="a note")
    kept = settings.keys_dir.rename(tmp_path / "kept")
    without = sealer_of(settings)
    opened = open_engine(settings.sql_url, without)
    with caplog.at_level(logging.ERROR):
        prepare_database(opened, settings, without)
    assert "key fields and key blind and the store of data keys" in caplog.text
    assert not settings.keys_dir.exists()
    assert [row["note"] for row in alarms.list_alarms(opened, reach=ALL, limit=9).rows] == [DAMAGED]
    for refused in (
        lambda: patients.get_patient(opened, key),
        lambda: patients.list_patients(opened, reach=ALL, clear=ALL, limit=9, text="王"),
        lambda: patients.admit_patient(opened, ADA, HOSPITAL, NewPatient("MRN-2")),
    ):  # fmt: skip
        with pytest.raises(KeyMissing):
            refused()
    kept.rename(settings.keys_dir)
    prepare_database(opened, settings, without)
    assert patients.get_patient(opened, key)["name"] == "王小明"
    opened.dispose()


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


HARMS = {
    "flipped": lambda keys: flip(keys / "fields" / "1.key"),
    "readable by others": lambda keys: (keys / "blind" / "1.key").chmod(0o644),
    "a version lost": lambda keys: (keys / "fields" / "1.key").rename(keys / "fields" / "2.key"),
    "empty store": lambda keys: (keys / "data_keys.db").write_bytes(b""),
    "damaged store": lambda keys: (keys / "data_keys.db").write_bytes(b"no database at all" * 1_000),
    "no store": lambda keys: (keys / "data_keys.db").unlink(),
}


@pytest.mark.clause("7.2c")
@pytest.mark.parametrize("harm", HARMS)
def test_damaged_keys_keep_no_alarm_from_starting(settings, business, caplog, harm):
    places.create_hospital(business, ADA, hospital_id=HOSPITAL, name="h", tier=Tier.PRIMARY, bed_count=9, shards=1)
    key = patients.admit_patient(business, ADA, HOSPITAL, NewPatient("MRN-1", "王小明"))["patient_key"]
    alarms.apply_alarm_events(business, [(1, alarm_of(key))])
    alarms.acknowledge(business, ADA, "a1", Outcome.ACTIONABLE, note="a note")
    sealer_of_engine(business).data_keys.close()
    HARMS[harm](settings.keys_dir)
    before = {file: file.read_bytes() for file in settings.keys_dir.glob("*/*.key")}
    harmed = sealer_of(settings)
    opened = open_engine(settings.sql_url, harmed)
    with caplog.at_level(logging.ERROR):
        prepare_database(opened, settings, harmed)
        first = prepare_accounts(opened, settings)  # a copied database: nobody was made yet
    assert "no name of a patient can be read or written" in caplog.text
    assert None not in (first.token, first.password)
    assert before.items() <= {file: file.read_bytes() for file in settings.keys_dir.glob("*/*.key")}.items()
    note = alarms.list_alarms(opened, reach=ALL, limit=9).rows[0]["note"]
    assert note == ("a note" if harm == "readable by others" else DAMAGED)
    opened.dispose()


@pytest.mark.clause("7.2c")
@pytest.mark.parametrize(("name", "says"), [("pepper", "sign in with a password"), ("totp", "show a second factor")])
def test_a_damaged_key_of_accounts_is_said_and_never_made_anew(settings, business, caplog, name, says):
    keys = SoftKeys(settings.keys_dir)
    prepare_accounts(business, settings)
    user = users.find_for_sign_in(business, users.FIRST_USER)
    second_factors.propose(business, ADA, user["id"], SecondFactors(keys).make(user["id"])[1])
    flip(settings.keys_dir / name / "1.key")
    with caplog.at_level(logging.ERROR):
        assert prepare_accounts(business, settings) == FirstCredentials()
    assert f"nobody can {says}" in caplog.text
    assert [file.name for file in (settings.keys_dir / name).iterdir()] == ["1.key"]


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
