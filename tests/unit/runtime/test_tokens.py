"""What is stored of a token tells how it was made, and not the token."""

from __future__ import annotations

import base64
import hashlib

from runtime.tokens import digests_of, new_token, token_digest


def test_a_token_is_found_by_its_digest_of_today_and_by_that_of_before():
    token, digest = new_token()
    assert digest == token_digest(token) != token
    assert digests_of(token) == (digest, hashlib.sha256(token.encode()).hexdigest())
    assert token not in digest


def test_a_digest_says_that_it_is_sm3_and_fits_its_column():
    scheme, _, value = token_digest("abc").partition(":")
    assert scheme == "sm3"
    assert base64.urlsafe_b64decode(value + "=").hex() == "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"
    assert len(token_digest("any token")) <= 64


def test_tokens_are_not_guessed():
    made = {new_token()[0] for _ in range(1000)}
    assert len(made) == 1000
    assert min(map(len, made)) >= 43  # 256 bits, six a character
