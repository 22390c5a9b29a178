"""What a witness says, and how it is asked, in C2SP's words."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.cosignatures import Submission, checkpoint_path, cosigned_text, time_and_signature, timed
from domain.errors import InvalidInput
from domain.signed_notes import COSIGNATURE, Note, PublicKey

CHECKPOINT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
# the examples of tlog-witness and tlog-cosignature
LINES = (
    "\u2014 example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "\u2014 witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)
HASHES = ("PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=", "jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=",
          "5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=", "/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=")  # fmt: skip
NOTE = f"{CHECKPOINT}\n{LINES}".encode()


def test_the_specifications_submission_is_read_and_written_back():
    raw = "".join(f"{line}\n" for line in ("old 20852014", *HASHES)).encode() + b"\n" + NOTE
    submission = Submission.parse(raw)
    assert (submission.old, submission.note) == (20852014, NOTE)
    assert submission.hashes == tuple(map(base64.b64decode, HASHES))
    assert submission.to_bytes() == raw
    assert Submission.parse(b"old 0\n\n" + NOTE).to_bytes() == b"old 0\n\n" + NOTE


def test_the_specifications_cosignature_has_its_time():
    cosignature = Note.parse(NOTE).signatures[1]
    at_s, signature = time_and_signature(cosignature.value)
    assert at_s == 1679315147
    assert timed(at_s, signature) == cosignature.value
    assert cosigned_text(CHECKPOINT.encode(), at_s) == b"cosignature/v1\ntime 1679315147\n" + CHECKPOINT.encode()


def test_a_witness_has_another_key_id_than_a_log_with_the_same_key():
    public = PublicKey("witness.example/w1", COSIGNATURE, bytes(range(32)))
    assert PublicKey.parse(public.vkey) == public
    assert base64.b64decode(public.vkey.split("+", 2)[2])[0] == 4


def test_a_log_is_found_by_the_hash_of_its_origin():
    assert checkpoint_path("") == "/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855/checkpoint"


@pytest.mark.parametrize("raw", [
    b"", b"old 1\n", b"old -1\n\n" + NOTE, b"old 01\n\n" + NOTE, b"old\n\n" + NOTE, b"new 1\n\n" + NOTE, b"\xff\n\n" + NOTE,
    b"old 1\nAAAA\n\n" + NOTE, b"old 1\nnot base64\n\n" + NOTE,
    b"old 1\n" + 64 * f"{HASHES[0]}\n".encode() + b"\n" + NOTE,
])  # fmt: skip
def test_what_is_no_submission_is_refused(raw):
    with pytest.raises(InvalidInput):
        Submission.parse(raw)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_submission_or_refused(raw):
    with contextlib.suppress(InvalidInput):
        assert Submission.parse(raw).to_bytes() == raw


@pytest.mark.parametrize("value", [b"", bytes(71), bytes(73), b"\xff" + bytes(71)])
def test_what_is_no_cosignature_is_refused(value):
    with pytest.raises(InvalidInput):
        time_and_signature(value)
