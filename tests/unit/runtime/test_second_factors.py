"""One-time codes as RFC 6238 has them, of a seed that is sealed for one user. Clauses 7.2a, 7.2c."""

from __future__ import annotations

import re

import pyotp
import pytest

from domain.errors import IntegrityViolation
from runtime.keys import KeyMissing, make_missing
from runtime.second_factors import (
    RECOVERY_CODES,
    STEP_US,
    SecondFactors,
    Shown,
    new_recovery_codes,
    provisioning_uri,
    recovery_digest,
)
from runtime.soft_keys import SoftKeys

USER = "u-0123456789ab"
NOW_US = 1_700_000_010_000_000
STEP = NOW_US // STEP_US


@pytest.fixture
def factors(tmp_path):
    keys = SoftKeys(tmp_path / "keys")
    make_missing(keys, ["totp"])
    return SecondFactors(keys)


class Plain:
    """A key that seals nothing, for seeds that are known."""

    def unwrap(self, name, wrapped, bound_to):
        assert (name, bound_to) == ("totp", USER.encode())
        return wrapped


# RFC 6238, appendix B, of SHA-1: the last six of its eight digits
VECTORS = [
    (59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"), (2000000000, "279037"),
    (20000000000, "353130"),
]  # fmt: skip


@pytest.mark.parametrize(("at_s", "code"), VECTORS)
def test_the_codes_are_those_of_the_rfc(at_s, code):
    assert SecondFactors(Plain()).shown(USER, b"12345678901234567890", code, at_s * 1_000_000) == Shown(step=at_s // 30)


@pytest.mark.clause("7.2a")
def test_a_code_is_good_one_step_early_or_late_and_no_longer(factors):
    secret, sealed = factors.make(USER)
    totp = pyotp.TOTP(secret)
    for offset in range(-3, 4):
        shown = factors.shown(USER, sealed, totp.generate_otp(STEP + offset), NOW_US)
        assert shown == Shown(step=STEP + offset if abs(offset) <= 1 else None)


def test_a_code_may_be_typed_as_it_is_shown(factors):
    secret, sealed = factors.make(USER)
    code = pyotp.TOTP(secret).generate_otp(STEP)
    for typed in (f" {code[:3]} {code[3:]} ", f"{code[:3]}-{code[3:]}", "".join(chr(ord(digit) + 0xFEE0) for digit in code)):
        assert factors.shown(USER, sealed, typed, NOW_US) == Shown(step=STEP), typed
    for wrong in ("", "12345", "1234567", "１２３", "٠١٢٣٤٥", "abcdef", "x" * 1_000, "\ud800"):
        assert factors.shown(USER, sealed, wrong, NOW_US).step is None


def test_at_the_beginning_of_time_there_is_no_step_before(factors):
    secret, sealed = factors.make(USER)
    assert factors.shown(USER, sealed, pyotp.TOTP(secret).generate_otp(0), 0) == Shown(step=0)


@pytest.mark.clause("7.2c")
def test_a_seed_is_sealed_and_opens_for_its_user_alone(factors, tmp_path):
    secret, sealed = factors.make(USER)
    assert secret.encode() not in sealed
    assert pyotp.TOTP(secret).byte_secret() not in sealed
    assert factors.make(USER)[0] != secret
    with pytest.raises(IntegrityViolation):
        factors.shown("u-another00000", sealed, "123456", NOW_US)
    with pytest.raises(KeyMissing):
        SecondFactors(SoftKeys(tmp_path / "elsewhere")).make(USER)


def test_recovery_codes_are_of_80_bits_each_another_and_forgive_how_they_are_typed(factors):
    codes = new_recovery_codes()
    assert len({*codes, *new_recovery_codes()}) == 2 * RECOVERY_CODES
    assert all(re.fullmatch(r"([A-Z2-7]{4}-){3}[A-Z2-7]{4}", code) for code in codes)
    _, sealed = factors.make(USER)
    digest = recovery_digest(USER, codes[0])
    for typed in (codes[0], codes[0].lower(), codes[0].replace("-", ""), codes[0].replace("-", " ")):
        assert factors.shown(USER, sealed, typed, NOW_US) == Shown(recovery_digest=digest)
    assert recovery_digest("u-another00000", codes[0]) != digest


def test_an_app_is_told_whose_code_it_is_and_where():
    uri = provisioning_uri("JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP", "li.na", "Vitalgrid sz")
    assert uri == "otpauth://totp/Vitalgrid%20sz:li.na?secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP&issuer=Vitalgrid%20sz"
