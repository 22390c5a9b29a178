"""How devices come to the doors, and what identifies them: a fingerprint whose change is news. Clause 8.4a.

A fingerprint is made of what stays the same while a device is the same and set up the same: its kind, serial number and
firmware as the directory has them, the door it comes by, whether by TLS, what it shows to be let in, and the software that
it says it is. Its network address is none of them: that changes by itself.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

import msgspec

from domain.enrolment import is_certificate

_CLIENT_CHARS: Final = 120
_PRODUCT: Final = re.compile(r"(?<!\S)[A-Za-z][A-Za-z_-]{0,29}/[0-9]{1,4}(?:\.[0-9]{1,4}){0,3}(?!\S)")
_FORMULA: Final = ("=", "+", "-", "@")
_FINGERPRINT_CHARS: Final = 32
SERIAL: Final = ("serial", "serial_number")  # attributes, the first of which that is there counts,
FIRMWARE: Final = ("firmware", "firmware_version")  # … and these
HTTP: Final = "http"


class Sighting(msgspec.Struct, frozen=True):
    """A device was let in at a door. `client`: MQTT's client id or HTTP's User-Agent, in the device's own words; of
    that no more than `software_words` in profiles that seal what they keep.

    `credentials`: what it showed, as digest of a token or fingerprint of a certificate; no secrets.
    """

    handle: int
    door: str
    address: str
    over_tls: bool
    client: str
    at_us: int
    credentials: tuple[str, ...] = ()

    @property
    def credential(self) -> str:
        """The kind of what it showed."""
        certificates = sum(map(is_certificate, self.credentials))
        if not certificates:
            return "token"
        return "certificate" if certificates == len(self.credentials) else "both"


def client_words(text: str) -> str:
    """What a device calls itself, as it is kept: printable, no formula of a spreadsheet, and not for ever."""
    shown = text[:_CLIENT_CHARS]
    if not shown.isprintable():
        shown = "".join(sign if sign.isprintable() else "?" for sign in shown)
    return f"'{shown[:-1]}" if shown[:1] in _FORMULA else shown


def software_words(door: str, text: str) -> str:
    """What is left of it where nothing is kept in clear that may be somebody's name or number: a product and its version.

    Of an HTTP User-Agent those of its words that have the form `Cuff/2.1`; MQTT's client ids are free texts.
    """
    return client_words(" ".join(_PRODUCT.findall(text[:_CLIENT_CHARS]))) if door == HTTP else ""


def serial_of(attributes: dict[str, Any]) -> str | None:
    return _first(attributes, SERIAL)


def firmware_of(attributes: dict[str, Any]) -> str | None:
    return _first(attributes, FIRMWARE)


def parts_of(sighting: Sighting, model: str, attributes: dict[str, Any]) -> dict[str, str]:
    """What the fingerprint is made of. MQTT's client ids are often drawn anew at each connection, so they are left out."""
    return {
        "model": model,
        "serial": serial_of(attributes) or "",
        "firmware": firmware_of(attributes) or "",
        "door": sighting.door,
        "link": "tls" if sighting.over_tls else "plain",
        "credential": sighting.credential,
        "software": sighting.client if sighting.door == HTTP else "",
    }


def fingerprint_of(parts: dict[str, str]) -> str:
    """Always the same for the same parts."""
    return hashlib.sha256(msgspec.json.encode(sorted(parts.items()))).hexdigest()[:_FINGERPRINT_CHARS]


def _first(attributes: dict[str, Any], names: tuple[str, ...]) -> str | None:
    found = next((attributes[name] for name in names if attributes.get(name) not in (None, "")), None)
    return None if found is None else str(found)
