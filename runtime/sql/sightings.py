"""What doors saw of devices, kept: where each came from last, and when its fingerprint changed. Clause 8.4a."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, bindparam, insert, select, update

from domain.sightings import Sighting, fingerprint_of, parts_of
from runtime.sql.credential_tables import credential_uses
from runtime.sql.engine import reading, writing
from runtime.sql.records import Row
from runtime.sql.sighting_tables import sightings
from runtime.sql.tables import devices

_CHUNK: Final = 500
_UPDATE: Final = (
    update(sightings)
    .where(sightings.c.device_handle == bindparam("of"))
    .values({column.name: bindparam(f"new_{column.name}") for column in sightings.c if column.name != "device_handle"})
)

_USED: Final = (
    update(credential_uses)
    .where(credential_uses.c.credential == bindparam("of"))
    .values(last_used_us=bindparam("at"))
)  # fmt: skip


def keep_sightings(engine: Engine, seen: Sequence[Sighting]) -> list[Row]:
    """Keep what doors saw, older sightings after newer ones too; the rows of those whose fingerprint changed.

    Of devices that do not exist nothing is kept. Raises Unavailable.
    """
    in_order = sorted(seen, key=lambda one: one.at_us)
    with writing(engine) as connection:
        handles = sorted({one.handle for one in in_order})
        kept, known = _rows(connection, handles), _devices(connection, handles)
        here, changed = set(kept), dict[int, Row]()
        for one in in_order:
            if one.handle in known:
                row = kept.get(one.handle)
                kept[one.handle] = _seen(row, one, parts_of(one, *known[one.handle]))
                if row is not None and kept[one.handle]["changes"] > row["changes"]:
                    changed[one.handle] = kept[one.handle]
        new = [row for handle, row in kept.items() if handle not in here]
        if new:
            connection.execute(insert(sightings), new)
        older = [
            {"of": handle} | {f"new_{name}": value for name, value in row.items() if name != "device_handle"}
            for handle, row in kept.items() if handle in here
        ]  # fmt: skip
        if older:
            connection.execute(_UPDATE, older)
        _note_uses(connection, [one for one in in_order if one.handle in known])
        return list(changed.values())


def _note_uses(connection: Connection, seen: Sequence[Sighting]) -> None:
    """When each credential was used last, of sightings in the order of their times; to the hour, as doors tell it."""
    latest = {credential: (one.handle, one.at_us) for one in seen for credential in one.credentials}
    marks, kept = sorted(latest), dict[str, int]()
    for start in range(0, len(marks), _CHUNK):
        part = credential_uses.c.credential.in_(marks[start : start + _CHUNK])
        kept |= dict(connection.execute(select(credential_uses.c.credential, credential_uses.c.last_used_us).where(part)).all())
    new = [
        {"credential": mark, "handle": handle, "last_used_us": at_us}
        for mark, (handle, at_us) in latest.items() if mark not in kept
    ]  # fmt: skip
    if new:
        connection.execute(insert(credential_uses), new)
    later = [{"of": mark, "at": at_us} for mark, (_, at_us) in latest.items() if mark in kept and at_us > kept[mark]]
    if later:
        connection.execute(_USED, later)


def sighting_of(engine: Engine, handle: int) -> Row | None:
    """How a device last came to a door by itself."""
    with reading(engine) as connection:
        return _rows(connection, [handle]).get(handle)


def _seen(row: Row | None, one: Sighting, parts: dict[str, str]) -> Row:
    """The row after a sighting. One that is older than what is kept changes nothing."""
    now: Row = {
        "device_handle": one.handle, "door": one.door, "address": one.address, "over_tls": one.over_tls,
        "credential": one.credential, "client": one.client, "last_us": one.at_us, "fingerprint": fingerprint_of(parts),
        "parts": parts,
    }  # fmt: skip
    if row is None:
        return now | {"first_us": one.at_us, "changes": 0, "changed_us": None, "parts_before": None}
    if one.at_us < row["last_us"]:
        return row
    if now["fingerprint"] == row["fingerprint"]:
        return row | now
    return row | now | {"changes": row["changes"] + 1, "changed_us": one.at_us, "parts_before": row["parts"]}


def _rows(connection: Connection, handles: Sequence[int]) -> dict[int, Row]:
    found: dict[int, Row] = {}
    for start in range(0, len(handles), _CHUNK):
        query = select(sightings).where(sightings.c.device_handle.in_(handles[start : start + _CHUNK]))
        found |= {row["device_handle"]: dict(row) for row in connection.execute(query).mappings()}
    return found


def _devices(connection: Connection, handles: Sequence[int]) -> dict[int, tuple[str, dict[str, Any]]]:
    """Model and attributes of those that exist."""
    found: dict[int, tuple[str, dict[str, Any]]] = {}
    for start in range(0, len(handles), _CHUNK):
        query = select(devices.c.handle, devices.c.model, devices.c.attributes)
        rows = connection.execute(query.where(devices.c.handle.in_(handles[start : start + _CHUNK])))
        found |= {row.handle: (row.model, row.attributes) for row in rows}
    return found
