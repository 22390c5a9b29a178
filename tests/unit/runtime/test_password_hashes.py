"""Stored passwords: what a guesser would need, and what each question costs."""

from __future__ import annotations

import base64
import unicodedata

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from domain.errors import IntegrityViolation
from runtime import password_hashes
from runtime.keys import KeyGone, KeyMissing, make_missing
from runtime.password_hashes import MAX_PASSWORD_CHARS, PasswordHashes
from runtime.security_profile import PasswordScheme
from runtime.sm import hmac_sm3, pbkdf2_sm3
from runtime.soft_keys import SoftKeys

PASSWORD = "four unrelated small words"


class Pepper:
    """A key whose bytes the test knows; all else of a KeyProvider is not asked for."""

    def versions(self, name):
        return (1,)

    def mac(self, name, message, *, version=None):
        assert (name, version) == ("pepper", 1)
        return hmac_sm3(b"pepper" * 6, message)


@pytest.fixture
def keys(tmp_path):
    provider = SoftKeys(tmp_path / "keys")
    make_missing(provider, ["pepper"])
    return provider


@pytest.fixture
def derivations(monkeypatch):
    """The iterations of each derivation."""
    counted = []

    def derive(password, salt, *, iterations):
        counted.append(iterations)
        return pbkdf2_sm3(password, salt, iterations=iterations)

    monkeypatch.setattr(password_hashes, "pbkdf2_sm3", derive)
    return counted


@pytest.mark.clause("7.2c")
def test_a_stored_password_is_the_peppers_hmac_of_pbkdf2_with_sm3():
    stored = PasswordHashes(Pepper(), iterations=1_000).make(PASSWORD)
    head, salt, kept = stored.removeprefix("$pbkdf2-sm3$").split("$")
    assert head == "v=1,i=1000,k=1"
    derived = pbkdf2_sm3(PASSWORD.encode(), base64.b64decode(salt), iterations=1_000)
    assert base64.b64decode(kept) == hmac_sm3(b"pepper" * 6, derived)


@pytest.mark.clause("7.2a")
def test_the_password_is_right_and_no_other_is(keys):
    hashes = PasswordHashes(keys, iterations=1_000)
    stored = hashes.make(PASSWORD)
    assert hashes.check(PASSWORD, stored)
    for wrong in ("", PASSWORD + " ", PASSWORD.upper(), "x" * 10**6, "x" + PASSWORD, "\ud800"):
        assert not hashes.check(wrong, stored), wrong[:30]
    assert stored != hashes.make(PASSWORD)  # a salt of its own


def test_two_spellings_of_one_character_are_one_password(keys):
    hashes = PasswordHashes(keys, iterations=1_000)
    composed = "crème brûlée de 护士"
    assert hashes.check(unicodedata.normalize("NFD", composed), hashes.make(composed))


@pytest.mark.clause("7.2a")
def test_whoever_is_not_there_costs_exactly_what_a_wrong_password_costs(keys, derivations):
    hashes = PasswordHashes(keys, iterations=1_000)
    stored = hashes.make(PASSWORD)
    for password, kept in ((PASSWORD, stored), ("wrong", stored), ("wrong", None), ("x" * 10**6, stored), ("", None)):
        derivations.clear()
        hashes.check(password, kept)
        assert derivations == [1_000], (password[:20], kept)
    assert not hashes.check("", None)
    stored_as_if = hashes.make("")
    assert not hashes.check("x" * (MAX_PASSWORD_CHARS + 1), stored_as_if)  # which is hashed as if it were empty


@pytest.mark.clause("7.2c")
def test_another_pepper_or_other_iterations_are_outdated_and_still_checked(keys):
    hashes = PasswordHashes(keys, iterations=1_000)
    stored = hashes.make(PASSWORD)
    assert not hashes.is_outdated(stored)
    assert PasswordHashes(keys, iterations=2_000).is_outdated(stored)
    keys.rotate("pepper")
    assert hashes.is_outdated(stored)
    assert hashes.check(PASSWORD, stored)
    assert not hashes.is_outdated(hashes.make(PASSWORD))


@pytest.mark.clause("7.2c")
def test_without_the_pepper_the_database_is_not_enough(keys, tmp_path):
    stored = PasswordHashes(keys, iterations=1_000).make(PASSWORD)
    elsewhere = SoftKeys(tmp_path / "other")
    with pytest.raises(KeyMissing):
        PasswordHashes(elsewhere, iterations=1_000).check(PASSWORD, stored)
    make_missing(elsewhere, ["pepper"])
    assert not PasswordHashes(elsewhere, iterations=1_000).check(PASSWORD, stored)
    keys.destroy("pepper", 1)
    with pytest.raises(KeyGone):
        PasswordHashes(keys, iterations=1_000).check(PASSWORD, stored)


@pytest.mark.parametrize("damage", [
    lambda stored: stored[:-3], lambda stored: stored.replace("i=1000", "i=0"), lambda stored: stored.replace("sm3", "sm4"),
    lambda stored: stored + "\n", lambda stored: "", lambda stored: stored[:-2] + "!=",
])  # fmt: skip
def test_a_damaged_one_is_an_error_and_not_a_wrong_password(keys, damage):
    hashes = PasswordHashes(keys, iterations=1_000)
    stored = damage(hashes.make(PASSWORD))
    with pytest.raises(IntegrityViolation) as error:
        hashes.check(PASSWORD, stored)
    assert not stored or stored not in str(error.value)


ARGON2 = {"iterations": 1_000, "scheme": PasswordScheme.ARGON2ID}


@pytest.mark.clause("7.2a")
def test_argon2id_is_the_peppers_hmac_of_what_rfc_9106_derives(keys):
    stored = PasswordHashes(Pepper(), **ARGON2).make(PASSWORD)
    head, salt, kept = stored.removeprefix("$argon2id$").split("$")
    assert head == "v=1,m=65536,t=3,p=1,k=1"
    derived = Argon2id(salt=base64.b64decode(salt), length=32, iterations=3, lanes=1, memory_cost=65536).derive(
        PASSWORD.encode()
    )
    assert base64.b64decode(kept) == hmac_sm3(b"pepper" * 6, derived)
    hashes = PasswordHashes(keys, **ARGON2)
    stored = hashes.make(PASSWORD)
    assert [hashes.check(given, stored) for given in (PASSWORD, PASSWORD + "x", "")] == [True, False, False]
    assert not hashes.is_outdated(stored)
    for damaged in (stored.replace("m=65536", "m=0"), stored.replace("p=1", "p=2"), stored[:-2] + "!="):
        with pytest.raises(IntegrityViolation):
            hashes.check(PASSWORD, damaged)


@pytest.mark.clause("7.2a")
def test_what_another_scheme_or_cost_made_is_checked_by_its_own_and_outdated(keys):
    by_sm3, by_argon2 = PasswordHashes(keys, iterations=1_000), PasswordHashes(keys, **ARGON2)
    for one, other in ((by_sm3, by_argon2), (by_argon2, by_sm3)):
        stored = one.make(PASSWORD)
        assert (other.check(PASSWORD, stored), other.check("x", stored)) == (True, False)
        assert (one.is_outdated(stored), other.is_outdated(stored)) == (False, True)
    assert by_argon2.is_outdated(by_argon2.make(PASSWORD).replace("t=3", "t=2"))
