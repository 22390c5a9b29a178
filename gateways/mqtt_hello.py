"""What a device says of itself in CONNECT."""

from __future__ import annotations

from typing import Final

from domain.ports import Shown
from gateways.mqtt_packets import Connect, Will

_WILL_TEXT_CHARS: Final = 200


def shown_by(packet: Connect, certificate: str | None) -> Shown:
    """What may be the token: the password, else the user name (ThingsBoard's devices send it there)."""
    found = [] if packet.password is None else [packet.password.decode(errors="replace")]
    tokens = tuple(token for token in (*found, packet.username or "") if token)
    return Shown(certificate, tokens, is_named=bool(packet.username))


def will_text(will: Will | None) -> str | None:
    """A will's payload as the detail of an event: its beginning, if it is text."""
    if will is None:
        return None
    text = will.payload[: 4 * _WILL_TEXT_CHARS].decode(errors="ignore")
    return "".join(char for char in text if char.isprintable())[:_WILL_TEXT_CHARS] or None
