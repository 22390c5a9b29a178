"""What alarms say of a person is sealed too, where data at rest are (profile `cn`): text, value, limit, values of inputs.

| table | column | what of it is sealed | bound to the row by |
|---|---|---|---|
| alarms | text | text, value and limit, together; `value` and `limit_value` are empty | alarm id |
| alarm_events | content | text, value, limit and the values of inputs, in the place of the text | event id |

Under the patient's data key, or the hospital's where no patient is known: erasure makes them unreadable, in every copy of
the database. Of who was erased nothing is sealed for anybody else: what comes late says `ERASED`. Rule, priority, metric,
place and times stay in clear: lists filter by them, and an alarm is told without keys.
What is older than sealing stays as it was: the database refuses changes of what was notified.

An alarm is never held up by a key. Where none is at hand it is kept without its values, and says so; who looks at the live
stream sees them. Clauses 7.2c, 9.3, 9.3h.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from domain.alarms import AlarmEvent
from domain.errors import IntegrityViolation, Unavailable
from runtime.data_keys import Owner
from runtime.keys import KeyGone, KeyMissing
from runtime.sealing import Place, Sealer, hospital_owner, is_sealed, patient_owner
from runtime.sql.sealed import DAMAGED, ERASED, SEALER, open_texts

logger = logging.getLogger(__name__)

WITHHELD: Final = "(not kept: there was no key to seal it with)"
Row = dict[str, Any]
_Sealed = tuple[Place, tuple[Owner, ...], "_Said"]


class _Said(msgspec.Struct, frozen=True, array_like=True):
    text: str
    value: float | None
    limit: float | None
    inputs: tuple[float | None, ...] = ()


_decode: Final = msgspec.json.Decoder(_Said).decode
_event: Final = msgspec.json.Decoder(AlarmEvent).decode


def shut_alarms(connection: Connection, rows: Sequence[Row]) -> None:
    """Seal, in place, rows of `alarms` whose text, value and limit are in clear."""
    said = [_Said(row["text"], row["value"], row["limit_value"]) for row in rows]
    places = [_of_alarm(row["alarm_id"]) for row in rows]
    owners = [_owners(row["hospital_id"], row["patient_key"]) for row in rows]
    for row, text in zip(rows, _shut(connection, list(zip(places, owners, said, strict=True))), strict=True):
        if text is not None:
            row |= {"text": text, "value": None, "limit_value": None}


def open_alarms(connection: Connection, rows: Sequence[Row]) -> list[Row]:
    """Rows of `alarms` as people may see them; ERASED or DAMAGED in the place of a text that does not open."""
    texts = _opened(connection, [(_of_alarm(row["alarm_id"]), row["text"]) for row in rows])
    return [
        row if said is None else {**row, "text": said.text, "value": said.value, "limit_value": said.limit}
        for row, said in zip(rows, texts, strict=True)
    ]


def shut_events(connection: Connection, events: Sequence[AlarmEvent]) -> list[bytes]:
    """The content of `alarm_events` for each event."""
    chosen = [
        (
            _of_event(event), _owners(event.subject.hospital_id, event.subject.patient_key),
            _Said(event.text, event.value, event.limit, tuple(one.value for one in event.inputs)),
        ) for event in events
    ]  # fmt: skip
    shut = zip(events, _shut(connection, chosen), strict=True)
    return [msgspec.json.encode(event if text is None else _without_values(event, text)) for event, text in shut]


def open_events(connection: Connection, contents: Sequence[bytes]) -> list[AlarmEvent]:
    """Events as they were notified; without their values, and with ERASED or DAMAGED for a text, where these do not open."""
    events = [_event(content) for content in contents]
    texts = _opened(connection, [(_of_event(event), event.text) for event in events])
    return [event if said is None else _with_values(event, said) for event, said in zip(events, texts, strict=True)]


def of_nobody(event: AlarmEvent) -> AlarmEvent:
    """A notification without the patient and what it said of them."""
    subject = msgspec.structs.replace(event.subject, patient_key=None)
    return msgspec.structs.replace(_without_values(event, ERASED), subject=subject)


def _shut(connection: Connection, chosen: Sequence[_Sealed]) -> list[str | None]:
    """Each as it is written; None where this installation does not seal, and what is said stays in clear."""
    sealer: Sealer | None = connection.get_execution_options().get(SEALER)
    if sealer is None or not sealer.seals_values or not chosen:
        return [None] * len(chosen)
    texts = [(owners[0], place, msgspec.json.encode(said).decode()) for place, owners, said in chosen]
    try:
        return list(sealer.seal_many(texts))
    except (KeyGone, KeyMissing, IntegrityViolation):  # of one of them
        return [_shut_one(sealer, place, owners, text) for (place, owners, _), (_, _, text) in zip(chosen, texts, strict=True)]
    except Unavailable as error:
        logger.error("%d alarms are kept without their values: %s", len(chosen), error)
        return [WITHHELD] * len(chosen)


def _shut_one(sealer: Sealer, place: Place, owners: Sequence[Owner], text: str) -> str:
    """Under the first of the owners who has a key. Where that was destroyed it is said to nobody any more."""
    for owner in owners:
        try:
            return sealer.seal(owner, place, text)
        except KeyGone:
            return ERASED
        except (IntegrityViolation, Unavailable) as error:
            logger.warning("what an alarm says is not sealed for %s: %s", owner.name, error)
    return WITHHELD


def _opened(connection: Connection, texts: Sequence[tuple[Place, str]]) -> list[_Said | None]:
    """What each says; None for what was never sealed."""
    rows = [{"text": text} for _, text in texts]
    shown = open_texts(connection, rows, "text", [place for place, _ in texts])
    return [_said(before["text"], after["text"]) for before, after in zip(rows, shown, strict=True)]


def _said(sealed: str, text: str | None) -> _Said | None:
    if not is_sealed(sealed):
        return None
    if text is None or text == DAMAGED:
        return _Said(ERASED if text is None else DAMAGED, None, None)
    return _decode(text.encode())


def _without_values(event: AlarmEvent, text: str) -> AlarmEvent:
    inputs = tuple(msgspec.structs.replace(one, value=None) for one in event.inputs)
    return msgspec.structs.replace(event, text=text, value=None, limit=None, inputs=inputs)


def _with_values(event: AlarmEvent, said: _Said) -> AlarmEvent:
    values = said.inputs if len(said.inputs) == len(event.inputs) else (None,) * len(event.inputs)
    inputs = tuple(msgspec.structs.replace(one, value=value) for one, value in zip(event.inputs, values, strict=True))
    return msgspec.structs.replace(event, text=said.text, value=said.value, limit=said.limit, inputs=inputs)


def _owners(hospital_id: str, patient_key: str | None) -> tuple[Owner, ...]:
    """Whose key is to seal it, the hospital's where the patient's is away."""
    of_hospital = hospital_owner(hospital_id, "alarms")
    return (of_hospital,) if patient_key is None else (patient_owner(hospital_id, patient_key), of_hospital)


def _of_alarm(alarm_id: str) -> Place:
    return Place("alarms", "text", alarm_id)


def _of_event(event: AlarmEvent) -> Place:
    return Place("alarm_events", "content", event.event_id)
