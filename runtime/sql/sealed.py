"""Columns that are sealed, and how rows are shut before they are written and opened after they were read.

| table | column | bound to the row by | key of |
|---|---|---|---|
| patients | name, ref | patient key | the patient |
| alarms | note | alarm id | the patient, or the hospital where no patient is known |
| associations | reason | device, patient, start, time of record | the patient |
| isolations | reason, release_reason | device, time of the order | the hospital |
| maintenance_windows | reason | hospital, device or ward, start | the hospital |
| write_log | reason, `note` in detail | time, author, action, target | the patient it is about, or the region |

The rest of the schema holds keys, handles, places, times and figures, and names of staff and devices; what alarms say of a
person is sealed where data at rest are (`sealed_alarms`). Rows of the write
log that are older than sealing are in clear: nothing can change them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, select

from domain.audit_reading import Said
from domain.errors import IntegrityViolation, Unavailable
from runtime.data_keys import Owner
from runtime.keys import KeyGone, KeyMissing
from runtime.sealing import BLIND, WRITES, Opened, Place, Sealer, Shut, hospital_owner, is_sealed, patient_owner
from runtime.sql.tables import positions

logger = logging.getLogger(__name__)

SEALER: Final = "sealer"  # execution options of an engine
NAMES: Final = "names"
ERASED: Final = "(erased)"
DAMAGED: Final = "(damaged)"
NEWEST_INDEX: Final = "blind-version"  # of `positions`: the newest version of the key that rows may be indexed under
NOTE: Final = "note"  # in the detail of the write log
Row = dict[str, Any]


def sealer_of(connection: Connection) -> Sealer:
    """The sealer the connection's engine was opened with."""
    sealer: Sealer | None = connection.get_execution_options().get(SEALER)
    if sealer is None:
        raise RuntimeError("the business database was opened without keys: what is sealed can be neither read nor written")
    return sealer


def shown(opened: Opened, place: Place) -> str | None:
    """A text for people: None where it was erased, and a word where it is damaged, which is logged."""
    if opened is Shut.ERASED:
        return None
    if isinstance(opened, Shut):
        logger.error("a sealed text is damaged or its key is missing: %s", ", ".join(place))
        return DAMAGED
    return opened


def index_versions(connection: Connection) -> tuple[int, ...]:
    """As of the sealer. Raises KeyMissing, too, when the keys are older than what is indexed here (`blind_indexes`)."""
    versions = sealer_of(connection).index_versions()
    query = select(positions.c.sequence).where(positions.c.name == NEWEST_INDEX)
    noted = connection.execute(query).scalar_one_or_none() or 1
    if noted > versions[0]:
        raise KeyMissing(f"version {noted} of key {BLIND} is missing: the keys are older than the database, restore newer ones")
    return versions


def ref_indexes(connection: Connection, hospital_id: str, refs: Sequence[str]) -> list[tuple[str, ...]]:
    """What patients of a hospital may be found by, for each reference: under each version of the key."""
    sealer, versions = sealer_of(connection), index_versions(connection)
    return [tuple(make_index(sealer, hospital_id, ref, version) for version in versions) for ref in refs]


def make_index(sealer: Sealer, hospital_id: str, ref: str, version: int) -> str:
    return sealer.index(f"patients.ref|{hospital_id}", ref, version)


def shut_patients(connection: Connection, rows: Sequence[Row], *, are_new: bool = False) -> list[Row]:
    """Rows of `patients`, or changes of them with `patient_key` and `hospital_id`, as they are written.

    `are_new`: nothing was sealed for these patients yet, and keys are made for them.
    """
    sealer = sealer_of(connection)
    shut = [dict(row) for row in rows]
    newest = index_versions(connection)[0] if any("ref" in row for row in rows) else 0
    chosen: list[tuple[Row, str]] = []
    texts: list[tuple[Owner, Place, str]] = []
    for row in shut:
        owner = patient_owner(row["hospital_id"], row["patient_key"])
        if "ref" in row:
            row["ref_index"] = make_index(sealer, row["hospital_id"], row["ref"], newest)
        for column in ("name", "ref"):
            if row.get(column) is not None:
                chosen.append((row, column))
                texts.append((owner, Place("patients", column, row["patient_key"]), row[column]))
    for (row, column), text in zip(chosen, sealer.seal_many(texts, are_new=are_new) if texts else (), strict=True):
        row[column] = text
    return shut


def open_patients(connection: Connection, rows: Sequence[Row]) -> list[Row]:
    """Rows of `patients` as people may see them, with `erased`: whether the patient's data were destroyed."""
    places = [
        (Place("patients", column, row["patient_key"]), row[column])
        for row in rows for column in ("name", "ref") if row[column] is not None
    ]  # fmt: skip
    opened = dict(zip((place for place, _ in places), sealer_of(connection).open_many(places), strict=True))
    return [_open_patient(row, opened) for row in rows]


def shut_text(connection: Connection, owner: Owner, place: Place, text: str | None, otherwise: Owner = WRITES) -> str | None:
    """A text as it is written: under the owner's key, or another's where that one was destroyed."""
    if text is None:
        return None
    try:
        return sealer_of(connection).seal(owner, place, text)
    except KeyGone:
        return sealer_of(connection).seal(otherwise, place, text)


def open_texts(connection: Connection, rows: Sequence[Row], column: str, places: Sequence[Place]) -> list[Row]:
    """Rows with the text in `column` opened. A text from before there was sealing stays as it is.

    Without keys, or with damaged ones, the rest of the rows is given all the same: alarms are among them.
    """
    chosen = [n for n, row in enumerate(rows) if row[column] is not None and is_sealed(row[column])]
    opened: list[Opened] = []
    if chosen:
        try:
            opened = sealer_of(connection).open_many((places[n], rows[n][column]) for n in chosen)
        except (KeyGone, IntegrityViolation, Unavailable) as error:  # a key, or the store of data keys, is away or damaged
            logger.error("sealed texts do not open now: %s", error)
            opened = [Shut.DAMAGED] * len(chosen)
    copies = list(rows)
    for number, text in zip(chosen, opened, strict=True):
        copies[number] = {**rows[number], column: shown(text, places[number])}
    return copies


def owner_of_alarm(row: Row) -> Owner:
    if row["patient_key"] is None:
        return hospital_owner(row["hospital_id"], "alarms")
    return patient_owner(row["hospital_id"], row["patient_key"])


def place_of_note(row: Row) -> Place:
    return Place("alarms", "note", row["alarm_id"])


def place_of_span(span: Mapping[str, Any]) -> Place:
    """Of an association's reason."""
    parts = (span["device_handle"], span["patient_key"], span["start_us"], span["recorded_us"])
    return Place("associations", "reason", "|".join(map(str, parts)))


def place_of_window(row: Row) -> Place:
    """Of a maintenance window's reason."""
    parts = (row["hospital_id"], row["device_handle"] or "", row["ward_id"] or "", row["from_us"])
    return Place("maintenance_windows", "reason", "|".join(map(str, parts)))


def place_of_isolation(row: Row, column: str) -> Place:
    """Of the reason of an isolation, or of its release."""
    return Place("isolations", column, f"{row['device_handle']}|{row['isolated_us']}")


def place_of_write(row: Row, column: str) -> Place:
    """Of the reason, or the note, in a row of the write log."""
    return Place("write_log", column, f"{row['at_us']}|{row['action']}|{len(row['who'])}|{row['who']}{row['target']}")


def shut_write(connection: Connection, row: Row, about: Owner | None) -> Row:
    """A row of the write log as it is written. `about`: the patient whom it concerns."""
    owner = about or WRITES
    shut = {**row, "reason": shut_text(connection, owner, place_of_write(row, "reason"), row["reason"])}
    if row["detail"] is not None and row["detail"].get(NOTE) is not None:
        note = shut_text(connection, owner, place_of_write(row, NOTE), row["detail"][NOTE])
        shut["detail"] = {**row["detail"], NOTE: note}
    return shut


def reason_shown(sealer: Sealer, said: Said, at_us: int) -> str:
    """Why somebody wrote, of an event of the access log; in brackets why it does not open."""
    if not is_sealed(said.why):
        return said.why
    row = {"at_us": at_us, "who": said.who, "action": said.action, "target": said.target}
    opened = sealer.open(place_of_write(row, "reason"), said.why)
    return f"({opened.value})" if isinstance(opened, Shut) else opened


def open_writes(connection: Connection, rows: Sequence[Row]) -> list[Row]:
    """Rows of the write log as people may see them."""
    opened = open_texts(connection, rows, "reason", [place_of_write(row, "reason") for row in rows])
    noted = [n for n, row in enumerate(opened) if isinstance((row["detail"] or {}).get(NOTE), str)]
    notes = [{NOTE: opened[n]["detail"][NOTE]} for n in noted]
    places = [place_of_write(opened[n], NOTE) for n in noted]
    for n, note in zip(noted, open_texts(connection, notes, NOTE, places), strict=True):
        opened[n] = {**opened[n], "detail": {**opened[n]["detail"], **note}}
    return opened


def _open_patient(row: Row, opened: Mapping[Place, Opened]) -> Row:
    name, ref = (Place("patients", column, row["patient_key"]) for column in ("name", "ref"))
    is_erased = row["ref"] is None or opened[ref] is Shut.ERASED
    seen = {name: value for name, value in row.items() if name != "ref_index"}
    return seen | {
        "name": None if row["name"] is None or is_erased else shown(opened[name], name),
        "ref": ERASED if is_erased else shown(opened[ref], ref), "erased": is_erased,
    }  # fmt: skip
