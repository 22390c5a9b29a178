"""Each cryptographic operation once, against the answer its standard gives: whether libraries here do what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from domain.errors import VitalgridError
from runtime import sm2
from runtime.sm import hmac_sm3, pbkdf2_sm3, sm3, sm4_gcm_open, sm4_gcm_seal

_KEY: Final = bytes.fromhex("0123456789abcdeffedcba9876543210")
_NONCE: Final = bytes.fromhex("00001234567800000000abcd")
_AAD: Final = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
_PLAINTEXT: Final = b"".join(bytes([byte]) * 8 for byte in (0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF, 0xEE, 0xAA))
_SEALED: Final = bytes.fromhex(
    "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735"
    "d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d83de3541e4c2b58177e065a9bf7b62ec"
)
_PUBLIC: Final = bytes.fromhex(
    "09f9df311e5421a150dd7d161e4bc5c672179fad1833fc076bb08ff356f35020"
    "ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13"
)
_SIGNATURE: Final = bytes.fromhex(
    "3046022100f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3"
    "022100b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa"
)


def _signs() -> bool:
    key = sm2.generate()
    return sm2.is_signed(key.public, b"message digest", sm2.sign(key, b"message digest"))


KNOWN_ANSWERS: Final[Mapping[str, Callable[[], bool]]] = {
    "SM3 (GB/T 32905 A.1)": lambda: sm3(b"abc").hex() == "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
    "HMAC-SM3 (OpenSSL 3)": lambda: (
        hmac_sm3(b"\1\2", b"abc").hex() == "1f461db7f335c6703b5d0b46348de1e5318be31c4dbf4346312f588d37205d80"
    ),
    "PBKDF2-SM3 (OpenSSL 3)": lambda: (
        pbkdf2_sm3(b"p", b"s", iterations=10).hex() == "f23ee4bc719fab7f17994f03ddcee1d3d9296aa208679f32149946ae83a241e9"
    ),
    "SM4-GCM seals (RFC 8998 A.1)": lambda: sm4_gcm_seal(_KEY, _NONCE, _PLAINTEXT, _AAD) == _SEALED,
    "SM4-GCM opens (RFC 8998 A.1)": lambda: sm4_gcm_open(_KEY, _NONCE, _SEALED, _AAD) == _PLAINTEXT,
    "SM2 verifies (GM/T 0003.5 A.2)": lambda: sm2.is_signed(_PUBLIC, b"message digest", _SIGNATURE),
    "SM2 signs": _signs,
}  # fmt: skip


def wrong_answers() -> list[str]:
    """The operations that gave another answer here, or none; nothing when all is well."""
    return [name for name, is_right in KNOWN_ANSWERS.items() if not _holds(is_right)]


def _holds(is_right: Callable[[], bool]) -> bool:
    try:
        return is_right()
    except (VitalgridError, ValueError, RuntimeError, ImportError):
        return False
