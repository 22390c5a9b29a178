"""National cryptography without signatures: SM3, HMAC-SM3, SM4 in GCM, PBKDF2 with SM3. Thin over `cryptography`.

Spec: GB/T 32905 (SM3), GB/T 32907 (SM4), RFC 2104, RFC 8998 (SM4-GCM), RFC 8018 (PBKDF2). Clause 7.2c.
Software only: no certified module (GM/T 0028) is claimed.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from domain.errors import IntegrityViolation

SM3_BYTES: Final = 32
SM4_KEY_BYTES: Final = 16
GCM_NONCE_BYTES: Final = 12
GCM_TAG_BYTES: Final = 16


def sm3(message: bytes) -> bytes:
    digest = hashes.Hash(hashes.SM3())
    digest.update(message)
    return digest.finalize()


def hmac_sm3(key: bytes, message: bytes) -> bytes:
    code = hmac.HMAC(key, hashes.SM3())
    code.update(message)
    return code.finalize()


def pbkdf2_sm3(password: bytes, salt: bytes, *, iterations: int) -> bytes:
    """32 bytes from a password. Other threads go on meanwhile: the interpreter lock is free."""
    return PBKDF2HMAC(hashes.SM3(), SM3_BYTES, salt, iterations).derive(password)


def sm4_gcm_seal(key: bytes, nonce: bytes, plaintext: bytes, bound_to: bytes) -> bytes:
    """Ciphertext and tag. `bound_to` is needed again to open. A nonce must never come twice with one key."""
    sealing = Cipher(algorithms.SM4(key), modes.GCM(nonce)).encryptor()
    sealing.authenticate_additional_data(bound_to)
    return sealing.update(plaintext) + sealing.finalize() + sealing.tag


def sm4_gcm_open(key: bytes, nonce: bytes, sealed: bytes, bound_to: bytes) -> bytes:
    """What `sm4_gcm_seal` sealed. Raises IntegrityViolation when any bit of it, of the nonce or of `bound_to` differs."""
    if len(sealed) < GCM_TAG_BYTES:
        raise IntegrityViolation(f"sealed content has {len(sealed)} bytes: expected {GCM_TAG_BYTES} or more")
    ciphertext, tag = sealed[:-GCM_TAG_BYTES], sealed[-GCM_TAG_BYTES:]
    opening = Cipher(algorithms.SM4(key), modes.GCM(nonce, tag)).decryptor()
    opening.authenticate_additional_data(bound_to)
    plaintext = opening.update(ciphertext)
    try:
        return plaintext + opening.finalize()
    except InvalidTag:
        raise IntegrityViolation("sealed content does not open: it was changed, moved, or sealed under another key") from None
