"""National cryptography against the vectors of its standards, a second implementation, and what must not be accepted."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import IntegrityViolation, InvalidInput
from runtime import sm2
from runtime.sm import hmac_sm3, pbkdf2_sm3, sm3, sm4_gcm_open, sm4_gcm_seal
from tests.openssl import needs_openssl, openssl, openssl_accepts_sm2
from tests.source_tree import ROOT

pytestmark = pytest.mark.clause("7.2c")

KEY = bytes.fromhex("0123456789abcdeffedcba9876543210")
NONCE = bytes.fromhex("00001234567800000000abcd")
AAD = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")

# GM/T 0003.5-2012 A.2: the signature of "message digest" with the example's key
PRIVATE = bytes.fromhex("3945208f7b2144b13f36e38ac6d39f95889393692860b51a42fb81ef4df7c5b8")
PUBLIC = bytes.fromhex(
    "09f9df311e5421a150dd7d161e4bc5c672179fad1833fc076bb08ff356f35020"
    "ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13"
)
MESSAGE = b"message digest"
R = bytes.fromhex("f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3")
S = bytes.fromhex("b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa")
SIGNATURE = bytes.fromhex("3046022100") + R + bytes.fromhex("022100") + S


@pytest.mark.parametrize(("message", "digest"), [
    (b"abc", "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"),
    (b"abcd" * 16, "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732"),
])  # fmt: skip
def test_sm3_gives_the_digests_of_gbt_32905(message, digest):
    assert sm3(message).hex() == digest


def test_sm4_gives_the_blocks_of_gbt_32907():
    block = Cipher(algorithms.SM4(KEY), modes.ECB()).encryptor()
    content = block.update(KEY)
    assert content.hex() == "681edf34d206965e86b3e94f536e4246"
    for _ in range(999_999):
        content = block.update(content)
    assert content.hex() == "595298c7c6fd271f0402f804c33d3f66"


def test_sm4_gcm_gives_the_ciphertext_of_rfc_8998_and_opens_it():
    plaintext = b"".join(bytes([byte]) * 8 for byte in (0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF, 0xEE, 0xAA))
    sealed = sm4_gcm_seal(KEY, NONCE, plaintext, AAD)
    assert sealed.hex() == (
        "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735"
        "d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d83de3541e4c2b58177e065a9bf7b62ec"
    )
    assert sm4_gcm_open(KEY, NONCE, sealed, AAD) == plaintext


@given(st.binary(max_size=200), st.binary(max_size=200), st.data())
def test_one_flipped_bit_anywhere_does_not_open(plaintext, bound_to, data):
    whole = [KEY, NONCE, sm4_gcm_seal(KEY, NONCE, plaintext, bound_to), bound_to]
    part = data.draw(st.sampled_from([number for number, content in enumerate(whole) if content]))
    bit = data.draw(st.integers(0, 8 * len(whole[part]) - 1))
    changed = bytearray(whole[part])
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityViolation):
        sm4_gcm_open(*whole[:part], bytes(changed), *whole[part + 1 :])


@pytest.mark.parametrize("length", range(16))
def test_sealed_content_that_is_shorter_than_its_tag_is_refused(length):
    with pytest.raises(IntegrityViolation):
        sm4_gcm_open(KEY, NONCE, bytes(length), b"")


@given(key=st.binary(max_size=200), message=st.binary(max_size=200))
def test_hmac_sm3_is_what_rfc_2104_says_over_sm3(key, message):
    block = (sm3(key) if len(key) > 64 else key).ljust(64, b"\0")
    inner = sm3(bytes(byte ^ 0x36 for byte in block) + message)
    assert hmac_sm3(key, message) == sm3(bytes(byte ^ 0x5C for byte in block) + inner)


@pytest.mark.parametrize("iterations", [1, 2, 50])
def test_pbkdf2_sm3_is_what_rfc_8018_says_over_hmac_sm3(iterations):
    last = hmac_sm3(b"password", b"salt" + (1).to_bytes(4, "big"))
    derived = int.from_bytes(last, "big")
    for _ in range(iterations - 1):
        last = hmac_sm3(b"password", last)
        derived ^= int.from_bytes(last, "big")
    assert pbkdf2_sm3(b"password", b"salt", iterations=iterations) == derived.to_bytes(32, "big")


@needs_openssl
def test_openssl_gives_the_same_digests_codes_and_derived_keys():
    assert sm3(MESSAGE).hex() in openssl("dgst", "-sm3", stdin=MESSAGE)
    code = openssl("mac", "-digest", "SM3", "-macopt", f"hexkey:{KEY.hex()}", "HMAC", stdin=MESSAGE)
    assert hmac_sm3(KEY, MESSAGE).hex() == code.strip().lower()
    options = ("digest:SM3", "pass:secret", "salt:sixteen bytes...", "iter:1000")
    derived = openssl("kdf", "-keylen", "32", *(part for option in options for part in ("-kdfopt", option)), "PBKDF2")
    assert pbkdf2_sm3(b"secret", b"sixteen bytes...", iterations=1000).hex() == derived.strip().replace(":", "").lower()


def test_the_signature_of_gmt_0003_holds_and_of_nothing_else():
    assert sm2.is_signed(PUBLIC, MESSAGE, SIGNATURE)
    assert not sm2.is_signed(PUBLIC, MESSAGE + b".", SIGNATURE)
    assert not sm2.is_signed(PUBLIC, MESSAGE, SIGNATURE, signer_id=b"somebody else")
    assert not sm2.is_signed(sm2.generate().public, MESSAGE, SIGNATURE)


@needs_openssl
@pytest.mark.parametrize("signer_id", ["1234567812345678", "log@sz.example"])
def test_sm2_signature_is_verified_by_openssl(tmp_path, signer_id):
    key = sm2.generate()
    signature = sm2.sign(key, MESSAGE, signer_id=signer_id.encode())
    assert openssl_accepts_sm2(tmp_path, key.public, MESSAGE, signature, signer_id)
    assert not openssl_accepts_sm2(tmp_path, key.public, MESSAGE + b".", signature, signer_id)
    assert not openssl_accepts_sm2(tmp_path, key.public, MESSAGE, signature, "another id")


def test_the_key_of_the_standard_signs_what_its_public_half_accepts():
    assert sm2.is_signed(PUBLIC, b"x" * 10_000, sm2.sign(sm2.KeyPair(PRIVATE, PUBLIC), b"x" * 10_000))


ATTACKS = """
from domain.errors import InvalidInput
from runtime import sm2
from tests.unit.runtime.test_sm import MESSAGE, PUBLIC, SIGNATURE

def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)

wrong = [SIGNATURE[:n] for n in range(len(SIGNATURE))]
wrong += [flipped(SIGNATURE, bit) for bit in range(8 * len(SIGNATURE))]
wrong += [SIGNATURE + b"0", SIGNATURE * 2, b"0" * 5000, bytes(72), bytes.fromhex("3006020100020100"), bytes.fromhex("3080")]
assert not any(sm2.is_signed(PUBLIC, MESSAGE, signature) for signature in wrong)
refused = 0
for public in (*(flipped(PUBLIC, bit) for bit in range(512)), bytes(64), b"", PUBLIC[:-1], PUBLIC + b"0", b"\\xff" * 64):
    try:
        sm2.is_signed(public, MESSAGE, SIGNATURE)
    except InvalidInput:
        refused += 1
print(len(wrong), refused)
"""


def test_a_flipped_bit_a_cut_signature_and_a_point_off_the_curve_are_refused_and_kill_nothing():
    done = subprocess.run([sys.executable, "-c", ATTACKS], capture_output=True, cwd=ROOT, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.decode().split() == [str(72 + 8 * 72 + 6), str(512 + 5)]


def test_a_public_key_of_another_length_is_named():
    with pytest.raises(InvalidInput, match="has 65 bytes: expected 64"):
        sm2.is_signed(b"\4" + PUBLIC, MESSAGE, SIGNATURE)
