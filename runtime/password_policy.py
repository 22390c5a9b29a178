"""Which passwords are good enough: long, and not guessed soon by who knows the user, the house and the city.

A guesser's estimate (zxcvbn) instead of rules about digits and signs. Its lists are English: frequent Chinese words and names
are added, in signs and in pinyin. What a guesser has for nothing is not counted at all: the words of a hospital in this region,
the user's name, and numbers that belong to people, as dates, telephones and id numbers. Clause 7.2a.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from zxcvbn import zxcvbn
from zxcvbn.matching import add_frequency_lists

from domain.errors import InvalidInput
from runtime.password_hashes import MAX_PASSWORD_CHARS

MIN_PASSWORD_CHARS: Final = 12
_LEAST_SCORE: Final = 3  # of 4: safe for a hash that is slow to try, zxcvbn's authors say
_LOOKED_AT_CHARS: Final = 24  # work grows with the square and with l33t signs: 0.2 s at worst, 5 s for MAX_PASSWORD_CHARS
_HERE: Final = Path(__file__).parent
_OF_THE_HOUSE: Final = _HERE / "password_words.txt"
_FREQUENT: Final = {"chinese_words": _HERE / "password_words_zh.txt", "chinese_names": _HERE / "password_names.txt"}
_OF_PEOPLE: Final = re.compile(
    r"(?<!\d)(?:1[3-9]\d{9}|\d{17}[\dXx]|(?:19|20)\d\d([-./年]?)\d{1,2}([-./月]?)\d{1,2}日?|\d{1,2}([-./]?)\d{1,2}\3(?:19|20)\d\d"
    r"|(?:19|20)\d\d年?)(?!\d)|[〇零一二三四五六七八九十百千万]{3,}"
)
_LEAST_LETTERS: Final = 4  # of a word that is not counted: shorter ones are in anything
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
    _learn()
    known = [word.lower() for word in (user_name, *_words(_OF_THE_HOUSE), *also)]
    # what begins the rest is judged alone, which what follows only makes harder to guess, and words are cut as it is
    # (of a later part alone the end of a long known name would pass)
    counted = _without(password.lower(), known)[:_LOOKED_AT_CHARS]
    found = zxcvbn(counted or " ", user_inputs=[word[:_LOOKED_AT_CHARS] for word in known])
    if found["score"] < _LEAST_SCORE:
        advice = " ".join([found["feedback"]["warning"], *found["feedback"]["suggestions"]]).strip()
        raise InvalidInput(f"the password would soon be guessed: take several words that have nothing to do with you. {advice}")


def first_password() -> str:
    """A password for a first sign-in, to be typed once: 20 characters, some 99 bits."""
    groups = ("".join(secrets.choice(_DIGITS) for _ in range(_GROUP_CHARS)) for _ in range(_GROUPS))
    return "-".join(groups)


def _without(password: str, known: Iterable[str]) -> str:
    """What is left of it, and has to be hard to guess: no word that is near, longest first, and no number of people."""
    left = _OF_PEOPLE.sub("", password)
    for word in sorted(known, key=len, reverse=True):
        if len(word) >= _LEAST_LETTERS or (len(word) > 1 and not word.isascii()):
            left = left.replace(word, "")
    return left


@cache
def _words(file: Path) -> tuple[str, ...]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(dict.fromkeys(word for line in lines if not line.startswith("#") for word in line.split()))


@cache
def _learn() -> None:
    """Give the estimator its Chinese lists: for the whole process, as it has them."""
    add_frequency_lists({name: _words(file) for name, file in _FREQUENT.items()})
