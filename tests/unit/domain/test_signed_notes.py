"""Signed notes, checkpoints and proofs, by the published vectors of C2SP and of Go's own notes."""

from __future__ import annotations

import base64
import contextlib
import os

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import IntegrityViolation, InvalidInput
from domain.signed_notes import ED25519, SM2, Checkpoint, Note, Proof, PublicKey, Signature

FOO = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
FOO_NOTE = (
    "This is an example message.\n\n\u2014 example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_LINE = (
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
PETER_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
SUMDB = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
SOFA = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"


class Ed25519:
    """Verifies with the key of a vkey."""

    def __init__(self, vkey):
        self._key = PublicKey.parse(vkey)
        self.name, self.key_id = self._key.name, self._key.key_id

    def is_valid(self, text, signature):
        try:
            Ed25519PublicKey.from_public_bytes(self._key.key).verify(signature, text)
        except InvalidSignature:
            return False
        return True


def test_the_notes_of_the_specification_and_of_go_are_verified():
    note = Note.parse(FOO_NOTE)
    assert note.text == "This is an example message.\n"
    assert note.verified_by([Ed25519(FOO)]) == ["example.com/foo"]
    assert note.to_bytes() == FOO_NOTE
    peter = Note.parse(f"{PETER_TEXT}\n{PETER_LINE}".encode())
    assert peter.text == PETER_TEXT
    assert peter.verified_by([Ed25519(ENOCH), Ed25519(PETER)]) == ["PeterNeumann"]


@pytest.mark.parametrize("vkey", [FOO, PETER, ENOCH, SUMDB])
def test_a_published_vkey_is_read_and_written(vkey):
    assert PublicKey.parse(vkey).vkey == vkey


def test_every_mangled_vkey_is_refused():
    pieces = {PETER[i:j] for i in range(len(PETER)) for j in range(i + 1, len(PETER) + 1)} - {PETER}
    changed = {PETER[:at] + chr(ord(PETER[at]) + 1) + PETER[at + 1 :] for at in range(len(PETER))}
    wrong = {
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",  # a key too long, its id right
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # a kind that is not known, its id right
    }
    for vkey in pieces | changed | wrong:
        with pytest.raises(InvalidInput):
            PublicKey.parse(vkey)


def test_a_key_of_sm2_has_an_id_of_its_own_kind():
    key = os.urandom(64)
    public = PublicKey("vitalgrid.example/log", SM2, key)
    assert PublicKey.parse(public.vkey) == public
    assert public.key_id != PublicKey("vitalgrid.example/log", ED25519, key[:32]).key_id
    with pytest.raises(InvalidInput, match=r"32 bytes"):
        PublicKey("log", SM2, key[:32])
    for name in ("", "a b", "a+b", "a\u2003b"):
        with pytest.raises(InvalidInput, match=r"named"):
            PublicKey(name, ED25519, key[:32])


def test_a_known_key_whose_signature_fails_spoils_the_note_and_unknown_ones_do_not():
    key = Ed25519PrivateKey.generate()
    mine = PublicKey("me", ED25519, key.public_key().public_bytes_raw())
    line = Signature("me", mine.key_id, key.sign(PETER_TEXT.encode())).line
    assert Note.parse(f"{PETER_TEXT}\n{PETER_LINE}{line}".encode()).verified_by([Ed25519(mine.vkey)]) == ["me"]
    bad = Signature("me", mine.key_id, bytes(64)).line
    with pytest.raises(IntegrityViolation, match=r"not of this text"):
        Note.parse(f"{PETER_TEXT}\n{PETER_LINE}{bad}".encode()).verified_by([Ed25519(PETER), Ed25519(mine.vkey)])
    with pytest.raises(IntegrityViolation, match=r"nobody who is known"):
        Note.parse(f"{PETER_TEXT}\n{PETER_LINE}".encode()).verified_by([Ed25519(ENOCH)])
    other_id = Signature("PeterNeumann", b"\0\0\0\0", bytes(64)).line  # same name, another key: unknown
    assert Note.parse(f"{PETER_TEXT}\n{other_id}{PETER_LINE}".encode()).verified_by([Ed25519(PETER)]) == ["PeterNeumann"]


def test_every_change_of_a_note_is_found():
    for at in range(len(FOO_NOTE)):
        for bit in range(8):
            changed = FOO_NOTE[:at] + bytes([FOO_NOTE[at] ^ 1 << bit]) + FOO_NOTE[at + 1 :]
            with pytest.raises((InvalidInput, IntegrityViolation)):
                Note.parse(changed).verified_by([Ed25519(FOO)])


@pytest.mark.parametrize("raw", [
    b"", b"\n", b"\n\n", b"text\n", b"text\n\n", FOO_NOTE[:-1],
    FOO_NOTE + b"\n", FOO_NOTE.replace(b" is", b"\tis"), b"\xff" + FOO_NOTE,
    FOO_NOTE.replace("\u2014".encode(), b"-"), FOO_NOTE.replace(b"/foo ", b"/foo  "), FOO_NOTE.replace(b"=\n", b"\n"),
    FOO_NOTE.replace(b"=\n", b"=x\n"), b"a\n\n" + "\u2014 a AAAA\n".encode(), b"text\n\n" + PETER_LINE.encode() * 101,
    b"a" * 1_000_001,
])  # fmt: skip
def test_what_is_no_note_is_refused(raw):
    with pytest.raises(InvalidInput, match=r"signed note|signature|base64"):
        Note.parse(raw)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_a_note_a_checkpoint_a_proof_or_invalid(raw):
    for parse in (Note.parse, Proof.parse, lambda some: Checkpoint.parse(some.decode(errors="replace"))):
        with contextlib.suppress(InvalidInput):
            parse(raw)


def test_the_checkpoint_of_the_specification_is_read_and_written():
    checkpoint = Checkpoint.parse(SOFA)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert checkpoint.text == SOFA
    assert Checkpoint.parse(SOFA + "an extension\n") == checkpoint


@pytest.mark.parametrize("text", [
    "", "a\n", "a\n1\n", SOFA[:-1], SOFA.replace("2085", "02085"), SOFA.replace("2085", "+2085"), SOFA.replace("CsU", "Cs"),
    SOFA.replace("I=", "J="), "\n" + SOFA, SOFA + "\n", SOFA.replace("\n2", "\n\n2"), "a\n1\nAAAA\n",
    SOFA.replace("20852163", "9" * 20),
])  # fmt: skip
def test_what_is_no_checkpoint_is_refused(text):
    with pytest.raises(InvalidInput):
        Checkpoint.parse(text)


@pytest.mark.parametrize("extra", [None, b"salt and event"])
@pytest.mark.parametrize("count", [0, 1, 63])
def test_a_proof_is_read_as_it_was_written(count, extra):
    proof = Proof(17, tuple(os.urandom(32) for _ in range(count)), f"{PETER_TEXT}\n{PETER_LINE}".encode(), extra)
    assert Proof.parse(proof.to_bytes()) == proof


def test_a_proof_looks_as_the_specification_shows():
    one = base64.b64encode(bytes(32)).decode()
    proof = Proof(10, (bytes(32),), b"checkpoint data\n", b"extra information")
    assert proof.to_bytes().decode() == (
        f"c2sp.org/tlog-proof@v1\nextra ZXh0cmEgaW5mb3JtYXRpb24=\nindex 10\n{one}\n\ncheckpoint data\n"
    )
    assert Proof(0, (), b"checkpoint\n").to_bytes() == b"c2sp.org/tlog-proof@v1\nindex 0\n\ncheckpoint\n"


@pytest.mark.parametrize("raw", [
    b"", b"wrong-header\nindex 0\n\ncheckpoint\n", b"c2sp.org/tlog-proof@v1\n\ncheckpoint\n",
    b"c2sp.org/tlog-proof@v1\nindex 0\n",
    b"c2sp.org/tlog-proof@v1\nindex 00\n\nc\n", b"c2sp.org/tlog-proof@v1\nindex -1\n\nc\n",
    b"c2sp.org/tlog-proof@v1\nindex x\n\nc\n",
    b"c2sp.org/tlog-proof@v1\nextra !!\nindex 0\n\nc\n", b"c2sp.org/tlog-proof@v1\nindex 0\nAAAA\n\nc\n", b"\xff\n\n",
    b"c2sp.org/tlog-proof@v1\nindex 0\n" + (base64.b64encode(bytes(32)) + b"\n") * 64 + b"\nc\n",
])  # fmt: skip
def test_what_is_no_proof_is_refused(raw):
    with pytest.raises(InvalidInput):
        Proof.parse(raw)
