"""Claim codes: what a person reads from one screen and types into a device, which has nothing else yet. Clause 5.4a.

Fifteen characters drawn at random (74 bits) and one that checks them, in groups of four: `7K2M-9XQ4-HTRW-3CVA`. The 31
characters leave out what is mistaken for another (0 O, 1 I L). 31 is a prime, so the check tells every single wrong
character, and any two that were exchanged.
"""

from __future__ import annotations

import secrets
from typing import Final

from domain.errors import InvalidInput

ALPHABET: Final = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"
_DRAWN: Final = 15
_GROUP: Final = 4
_VALUE_OF: Final = {character: value for value, character in enumerate(ALPHABET)}


def new_claim_code() -> str:
    """A code that nobody can guess, as it is shown."""
    drawn = "".join(secrets.choice(ALPHABET) for _ in range(_DRAWN))
    text = drawn + _check_of(drawn)
    return "-".join(text[start : start + _GROUP] for start in range(0, len(text), _GROUP))


def parse_claim_code(text: str) -> str:
    """The one spelling of a code, whatever its case, hyphens and spaces. Raises InvalidInput; never quotes it."""
    code = "".join(character for character in text.upper() if character not in "- ")
    if len(code) != _DRAWN + 1 or not _VALUE_OF.keys() >= set(code):
        raise InvalidInput(
            f"a claim code has {_DRAWN + 1} letters and digits, such as 7K2M-9XQ4-HTRW-3CVA; this has another form"
        )
    if _check_of(code[:_DRAWN]) != code[_DRAWN]:
        raise InvalidInput("the claim code is mistyped: its last character does not fit the others")
    return code


def _check_of(drawn: str) -> str:
    return ALPHABET[sum(weight * _VALUE_OF[character] for weight, character in enumerate(drawn, 1)) % len(ALPHABET)]
