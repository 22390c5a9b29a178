"""Settings that are laxer than their security profile are refused, all of them at once."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from domain.principals import Role
from runtime.security_profile import (
    PasswordScheme,
    SecondFactorRule,
    SecurityProfile,
    contradictions,
    too_lax_accounts,
)
from runtime.setting_sections import ApiSettings, BusSettings, DoorSettings, SecuritySettings
from runtime.settings import Settings

TLS = {"tls_cert_file": "door.pem", "tls_key_file": "door.key"}

pytestmark = pytest.mark.clause("9.1a")


def settings(profile: str, *, api: str = "127.0.0.1", doors: str = "127.0.0.1", **also: str) -> Settings:
    return Settings(api=ApiSettings(host=api), doors=DoorSettings(host=doors, **also), security={"profile": profile})


def test_an_unknown_profile_names_the_known_ones():
    with pytest.raises(ValidationError, match="Input should be 'dev', 'standard' or 'cn'"):
        SecuritySettings(profile="relaxed")


@pytest.mark.clause("9.1a")
def test_who_says_nothing_gets_tls_everywhere():
    assert Settings().security.profile is SecurityProfile.STANDARD


@pytest.mark.parametrize(("profile", "also"), [
    ("dev", {}), ("dev", TLS), ("standard", {}), ("standard", TLS), ("standard", {"api": "0.0.0.0", "doors": "10.0.0.1"}),
    ("cn", {}), ("cn", {"api": "0.0.0.0"}),
])  # fmt: skip
def test_what_a_profile_allows_is_taken(profile, also):
    assert settings(profile, **also).security.profile == profile


@pytest.mark.parametrize(("profile", "given", "named"), [
    ("dev", {"api": "0.0.0.0"}, ["api.host is 0.0.0.0"]),
    ("dev", {"doors": "192.168.1.7"} | TLS, ["doors.host is 192.168.1.7"]),
    ("dev", {"api": "::", "doors": "::"}, ["api.host is ::", "doors.host is ::"]),
    ("dev", {"tls_key_file": "door.key"}, ["doors.tls_cert_file"]),
    ("standard", {"tls_cert_file": "door.pem"}, ["doors.tls_key_file"]),
    ("dev", {"api": "10.0.0.1", "tls_cert_file": "door.pem"}, ["api.host is 10.0.0.1", "doors.tls_key_file"]),
])  # fmt: skip
def test_what_is_laxer_is_refused_and_each_of_it_named(profile, given, named):
    with pytest.raises(ValidationError) as refused:
        settings(profile, **given)
    (problem,) = refused.value.errors()
    assert [part for part in named if part not in problem["msg"]] == []
    assert problem["msg"].count(";") >= len(named) - 1


def test_the_bus_answers_other_machines_by_tls_alone():
    with pytest.raises(ValidationError, match=r"bus\.host is 10\.1\.2\.3"):
        Settings(bus=BusSettings(host="10.1.2.3"), security={"profile": "dev"})
    assert Settings(bus=BusSettings(host="10.1.2.3")).bus.host == "10.1.2.3"
    assert Settings().bus.host == "127.0.0.1"
    with pytest.raises(ValidationError):
        BusSettings(host='127.0.0.1"')


def test_each_profile_answers_for_the_settings_it_is_asked_about():
    for profile in SecurityProfile:
        assert contradictions(profile, api_host="localhost", doors_host="::1", password_iterations=600_000) == []


@pytest.mark.clause("7.2a")
def test_the_standard_profile_wants_stored_passwords_that_are_slow_to_try(monkeypatch):
    monkeypatch.setenv("VITALGRID_SECURITY__PASSWORD_ITERATIONS", "599999")
    with pytest.raises(ValidationError, match=r"security.password_iterations is 599,999"):
        settings("standard", **TLS)
    settings("dev")


@pytest.mark.clause("7.2c")
@pytest.mark.parametrize(("profile", "given", "is_sealed"), [
    ("dev", None, False), ("standard", None, False), ("dev", True, True), ("standard", True, True), ("cn", None, True),
    ("cn", True, True),
])  # fmt: skip
def test_files_are_sealed_where_the_profile_or_a_setting_says_so(profile, given, is_sealed):
    assert Settings(security={"profile": profile, "seal_files": given}).seals_files is is_sealed


@pytest.mark.clause("7.2c")
def test_profile_cn_allows_neither_files_in_clear_nor_passwords_that_are_quick_to_try():
    with pytest.raises(ValidationError) as refused:
        Settings(security={"profile": "cn", "seal_files": False, "password_iterations": 1000})
    assert "security.seal_files is false" in str(refused.value)
    assert "security.password_iterations is 1,000" in str(refused.value)


@pytest.mark.parametrize("name", ["a b", "", "wärd", "x" * 254])
def test_a_name_that_no_certificate_can_hold_for_is_refused(name):
    with pytest.raises(ValidationError, match="names"):
        Settings(security={"profile": "standard", "names": [name]})


@pytest.mark.clause("7.2a")
def test_standard_wants_a_second_factor_of_administrators_and_takes_more():
    assert [Settings(security={"profile": name}).second_factor for name in ("dev", "standard")] == ["nobody", "administrators"]
    with pytest.raises(ValidationError, match=r"security.second_factor is nobody: .* expects administrators"):
        Settings(security={"profile": "standard", "second_factor": "nobody"})
    for profile, rule in (("dev", "nobody"), ("dev", "everybody"), ("standard", "administrators"), ("standard", "everybody")):
        assert Settings(security={"profile": profile, "second_factor": rule}).second_factor == rule


POWERS = [Role.ADMINISTRATOR, Role.SECURITY_ADMINISTRATOR, Role.PRIVACY_OFFICER, Role.LOCAL_OPERATOR]


@pytest.mark.parametrize(("rule", "whom"), [
    ("nobody", []), ("administrators", POWERS), ("everybody", [*POWERS, Role.NURSE, None]),
])  # fmt: skip
def test_a_rule_is_for_whoever_has_one_such_role(rule, whom):
    for role in (*POWERS, Role.NURSE, None):
        roles = {Role.PATIENT} if role is None else {Role.PATIENT, role}
        assert SecondFactorRule(rule).is_for(roles) is (role in whom)


@pytest.mark.clause("7.2c")
def test_national_cryptography_derives_no_password_by_argon2():
    national = SecurityProfile.CN
    (found,) = too_lax_accounts(national, SecondFactorRule.EVERYBODY, PasswordScheme.ARGON2ID)
    assert "security.password_scheme is argon2id" in found
    assert too_lax_accounts(national, None, PasswordScheme.PBKDF2_SM3) == []
    for profile in ("dev", "standard"):
        assert Settings(security={"profile": profile, "password_scheme": "argon2id"}).security.password_scheme == "argon2id"
