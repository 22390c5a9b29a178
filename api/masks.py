"""How patients appear where they are not seen by name, and the types that keep schemas from showing them otherwise.

A field that tells who somebody is has one of the `Masked…` types: it takes a `Shown` alone, and a `Shown` comes from here,
where it is said in which view the answer is. What is masked keeps as much as helps people at work to tell records apart and
as little as tells nobody who is meant. Clause 9.3c.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

from pydantic import GetCoreSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

from domain.permissions import View

MASKED: Final = "x-masked"  # in the OpenAPI document: what is masked in the field
HIDDEN: Final = "***"
# No `\b`: Chinese is written without spaces, and its characters are those of words too.
_ID_NUMBER: Final = re.compile(r"(?<!\d)\d{17}[\dXx](?!\d)")  # GB 11643
_MOBILE: Final = re.compile(r"1[3-9]\d{9}")
_MOBILE_IN_TEXT: Final = re.compile(r"(?<!\d)(?:(?:\+|00)?86[- ]?)?1[3-9]\d[- ]?\d{4}[- ]?\d{4}(?!\d)")
_ID_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS: Final = "10X98765432"
_DISTRICT: Final = re.compile(r"^.*?(?:自治区|特别行政区|省)?.*?市.*?(?:区|县|旗|市)|^.*?(?:省|自治区|市).*?(?:区|县|旗|市)")
_DECIMALS: Final = 3  # of a degree: about 100 m


class Shown(str):
    """Text that may stand in an answer as it is. Made in this module alone."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(cls)


_TEXT_OR_NULL: Final = {"anyOf": [{"type": "string"}, {"type": "null"}]}
MaskedName = Annotated[Shown | None, WithJsonSchema(_TEXT_OR_NULL | {MASKED: "name"})]
MaskedRef = Annotated[Shown, WithJsonSchema({"type": "string", MASKED: "hospital number"})]
MaskedText = Annotated[Shown | None, WithJsonSchema(_TEXT_OR_NULL | {MASKED: "free text"})]


# --- for fields ---


def shown_name(name: str | None, view: View) -> MaskedName:
    return _shown(name, view, name_of)


def shown_ref(ref: str, view: View) -> MaskedRef:
    return Shown(ref if view is View.CLEAR else hospital_number(ref))


def shown_note(text: str | None, view: View) -> MaskedText:
    """What somebody wrote about a patient: all of it, or nothing; a name in it cannot be found."""
    return _shown(text, view, lambda _: HIDDEN)


def shown_text(text: str | None) -> MaskedText:
    """What somebody wrote about their own doing, for those who look after it: without citizens' and mobile numbers."""
    return None if text is None else Shown(free_text(text))


def _shown(text: str | None, view: View, mask: Callable[[str], str]) -> Shown | None:
    if text is None:
        return None
    return Shown(text if view is View.CLEAR else mask(text))


def view_in(row: Mapping[str, Any]) -> View:
    """How a patient appears in a row of a list, where the database said it (`is_clear`)."""
    return View.CLEAR if row["is_clear"] else View.MASKED


# --- maskers ---


def name_of(name: str) -> str:
    """`张**`; of a name in Latin letters the first letter: `A***`."""
    first = name.strip()[:1]
    return first + ("***" if first.isascii() else "**") if first else HIDDEN


def hospital_number(ref: str) -> str:
    """The last two characters; of a number of four or fewer none."""
    return HIDDEN + ref[-2:] if len(ref) > 4 else HIDDEN


def is_id_number(text: str) -> bool:
    """Whether it is a citizen's number by GB 11643-1999: 17 digits and their check digit (ISO 7064, MOD 11-2)."""
    if not _ID_NUMBER.fullmatch(text):
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, text[:17], strict=True))
    return _ID_CHECKS[total % 11] == text[17].upper()


def id_number(text: str) -> str:
    """`440***********1234`; what is no citizen's number is hidden altogether."""
    return f"{text[:3]}{'*' * 11}{text[-4:]}" if is_id_number(text) else HIDDEN


def telephone(text: str) -> str:
    """`138****1234`; of another number the last two digits."""
    digits = re.sub(r"\D", "", text)
    if _MOBILE.fullmatch(digits[-11:]) and len(digits) <= 13:
        return f"{digits[-11:-8]}****{digits[-4:]}"
    return HIDDEN + digits[-2:] if len(digits) > 6 else HIDDEN


def address(text: str) -> str:
    """Up to the district; an address that names none is hidden."""
    found = _DISTRICT.match(text.strip())
    return f"{found.group()}{HIDDEN}" if found else HIDDEN


def birth_date(text: str) -> str:
    """The year of a date as ISO 8601 writes it."""
    return text[:4] if re.fullmatch(r"\d{4}-\d{2}-\d{2}.*", text) else HIDDEN


def position(latitude_deg: float, longitude_deg: float) -> tuple[float, float]:
    """To about a hundred metres."""
    return round(latitude_deg, _DECIMALS), round(longitude_deg, _DECIMALS)


def free_text(text: str) -> str:
    """Text with the citizens' and mobile numbers that stand in it masked. Names in it are not found."""
    without_ids = _ID_NUMBER.sub(lambda found: id_number(found.group()) if is_id_number(found.group()) else found.group(), text)
    return _MOBILE_IN_TEXT.sub(lambda found: telephone(found.group().removeprefix("00")), without_ids)
