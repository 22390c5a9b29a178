"""Which passwords are good enough: long, and not guessed soon by who knows the user, the house and the city.

A guesser's estimate (zxcvbn) instead of rules about digits and signs; a list of our own adds what people of a hospital in
this region would think of, which its English lists do not have. Clause 7.2a.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from zxcvbn import zxcvbn

from domain.errors import InvalidInput
from runtime.password_hashes import MAX_PASSWORD_CHARS

MIN_PASSWORD_CHARS: Final = 12
_LEAST_SCORE: Final = 3  # of 4: safe for a hash that is slow to try, zxcvbn's authors say
_LOOKED_AT_CHARS: Final = 24  # work grows with the square and with l33t signs: 0.2 s at worst, 5 s for MAX_PASSWORD_CHARS
_WORDS: Final = Path(__file__).with_name("password_words.txt")
_DIGITS: Final = "abcdefghjkmnpqrstuvwxyz23456789"  # none that is read as another one
_GROUPS: Final = 4
_GROUP_CHARS: Final = 5


def check_password(password: str, *, user_name: str, also: Iterable[str] = ()) -> None:
    """Raises InvalidInput, which never quotes the password, unless it is good enough.

    `also`: words of which guessers know that they are near, such as names of the hospitals. Takes up to some tenths
    of a second, and runs in one thread at a time: the estimator keeps those words in a place that all share.
    """
    if not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
        raise InvalidInput(
            f"the password has {len(password)} characters: expected {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS}"
        )
    # what begins a password is judged alone, which the rest only makes harder to guess, and words are cut as it is
    # (of a later part alone the end of a long known name would pass)
    known = [word.lower()[:_LOOKED_AT_CHARS] for word in (user_name, *_words(), *also)]
    found = zxcvbn(password[:_LOOKED_AT_CHARS], user_inputs=known)
    if found["score"] < _LEAST_SCORE:
        advice = " ".join([found["feedback"]["warning"], *found["feedback"]["suggestions"]]).strip()
        raise InvalidInput(f"the password would soon be guessed: take several words that have nothing to do with you. {advice}")


def first_password() -> str:
    """A password for a first sign-in, to be typed once: 20 characters, some 99 bits."""
    groups = ("".join(secrets.choice(_DIGITS) for _ in range(_GROUP_CHARS)) for _ in range(_GROUPS))
    return "-".join(groups)


@cache
def _words() -> tuple[str, ...]:
    lines = _WORDS.read_text(encoding="utf-8").splitlines()
    return tuple(word for line in lines if not line.startswith("#") for word in line.split())
