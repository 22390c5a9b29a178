"""SM2 signatures, thin over GmSSL (`gmssl_pyx`).

Spec: GM/T 0003.2 and 0003.5 (the recommended curve), GM/T 0009 (signer id, DER). Clause 7.2c.
Known limitation: GmSSL writes a line to standard error for each signature that does not hold.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import gmssl_pyx

from domain.errors import InvalidInput

SIGNER_ID: Final = b"1234567812345678"  # GM/T 0009 chapter 10: where nothing else is agreed
PUBLIC_KEY_BYTES: Final = 64


class KeyPair(NamedTuple):
    """`public`: x and y of the point, 32 bytes each."""

    private: bytes
    public: bytes


def generate() -> KeyPair:
    public, private = gmssl_pyx.sm2_key_generate()
    return KeyPair(private, public)


def sign(key: KeyPair, message: bytes, *, signer_id: bytes = SIGNER_ID) -> bytes:
    """A signature, DER. Takes about 3 ms, and two of one message differ."""
    signature: bytes = gmssl_pyx.sm2_sign(key.private, key.public, message, signer_id=signer_id)
    return signature


def is_signed(public: bytes, message: bytes, signature: bytes, *, signer_id: bytes = SIGNER_ID) -> bool:
    """Whether `signature` is the key's, of this message. Any other bytes are not, however malformed.

    Raises InvalidInput when `public` is no point of the curve.
    """
    if len(public) != PUBLIC_KEY_BYTES:
        raise InvalidInput(f"an SM2 public key has {len(public)} bytes: expected {PUBLIC_KEY_BYTES}")
    try:
        point = gmssl_pyx.normalize_sm2_public_key(public)
    except gmssl_pyx.InvalidValueError:
        raise InvalidInput("an SM2 public key is no point of the curve") from None
    try:
        return bool(gmssl_pyx.sm2_verify(point, message, signature, signer_id=signer_id))
    except gmssl_pyx.GmsslInnerError:  # an empty signature, for one
        return False
