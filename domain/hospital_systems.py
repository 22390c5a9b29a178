"""Programs of hospitals on the bus: each hospital has an account of its own, and in it each program two subjects of its own.

On `asks` it asks for alarms, on `alarms` it hears them: one Server-Sent Event of `GET /live/alarms` a message. Nothing else
crosses the border of an account.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from domain.errors import InvalidInput

ANY: Final = "*"  # in place of a number: every program of a hospital
ASKED: Final = "hospital.*.*.*.ask"  # request (`AlarmsAsked`), of any program of any hospital
HEARD: Final = "hospital.*.*.*.alarms"
MAX_QUESTION_BYTES: Final = 4_096  # nats-server takes no larger message of a hospital's program, and ends the connection
NUMBER_HEADER: Final = "Vitalgrid-Number"  # of a message among those of one stream, from 1: the bus tells nobody what is lost
LEASE_S: Final = 30.0  # alarms are sent for so long unless it is said again that somebody hears them
_PARTS: Final = 5


class HospitalSystem(NamedTuple):
    """A program that a certificate lets in. `number`: of the certificate. `key_digest`: of its key, by which it is known."""

    hospital_id: str
    number: int
    key_digest: str

    @property
    def asks(self) -> str:
        return asks_on(self.hospital_id, self.number)

    @property
    def hears(self) -> str:
        return heard_by(self.hospital_id, self.number)

    @property
    def inbox(self) -> str:
        return inbox_of(self.number)


def asks_on(hospital_id: str, number: int | str) -> str:
    """Where the program of certificate `number` asks for alarms."""
    return f"hospital.{hospital_id}.{number}.ask"


def inbox_of(number: int) -> str:
    """Where answers to the program of certificate `number` come, and to nobody else: a prefix."""
    return f"_INBOX.{number}"


def heard_by(hospital_id: str, number: int | str) -> str:
    """Where the program of certificate `number` hears alarms."""
    return f"hospital.{hospital_id}.{number}.alarms"


def asked_by(subject: str) -> tuple[str, int]:
    """Hospital and certificate of who asks on `subject`, as the server let them. Raises InvalidInput."""
    parts = subject.split(".")
    if len(parts) != _PARTS or not parts[3].isdecimal():
        raise InvalidInput(f"subject {subject!r} is nobody's: expected 'hospital.sz.h012.7.ask'")
    return f"{parts[1]}.{parts[2]}", int(parts[3])


class AlarmsAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`token`: the program's own. `after`: the last event that it has seen.

    `goes_on`: it hears them already and wants to; the number of the last message up to which it has heard every one.
    """

    token: str
    after: int | None = None
    goes_on: int | None = None


class AlarmsGranted(msgspec.Struct, frozen=True):
    """The answer: alarms are sent for so long from now on."""

    lease_s: float


_decoder: Final = msgspec.json.Decoder(AlarmsAsked)


def decode_asked(data: bytes) -> AlarmsAsked:
    """Raises InvalidInput, which tells nothing of what was sent: it may hold a token."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidInput('the question cannot be read: expected {"token": "...", "after": 17} in JSON') from None
