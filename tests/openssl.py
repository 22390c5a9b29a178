"""The command openssl as a second opinion on our cryptography: another implementation, in another process."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

# RFC 5280 SubjectPublicKeyInfo of an uncompressed point on the curve SM2 (1.2.156.10197.1.301)
_SM2_SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d03420004")

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the command openssl is not installed")


def openssl(*arguments: str, stdin: bytes = b"") -> str:
    done = subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, timeout=30, check=True)
    return done.stdout.decode()


def openssl_accepts_sm2(folder: Path, public: bytes, message: bytes, signature: bytes, signer_id: str) -> bool:
    """Whether openssl finds the signature good; `folder` takes its files."""
    (folder / "public.der").write_bytes(_SM2_SPKI + public)
    (folder / "signature").write_bytes(signature)
    command = ["openssl", "dgst", "-sm3", "-keyform", "DER", "-verify", str(folder / "public.der"),
               "-sigopt", f"distid:{signer_id}", "-signature", str(folder / "signature")]  # fmt: skip
    done = subprocess.run(command, input=message, capture_output=True, timeout=30, check=False)
    return done.returncode == 0 and done.stdout.strip() == b"Verified OK"
