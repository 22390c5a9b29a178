"""Which device was on whom, when. Spans are bitemporal: true in [start, end), believed in [recorded, superseded).

A correction supersedes a span and records another; nothing that was believed, and so perhaps shown, is deleted.
Times are event times, UTC microseconds. Clause 8.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl
from sqlalchemy import Connection, Engine, Select, bindparam, delete, insert, literal, or_, select, update

from domain.errors import Conflict, InvalidInput
from domain.messages import AssociationSpan, DeviceAssociated
from domain.permissions import NOWHERE, Reach
from runtime.data_keys import Owner
from runtime.sealing import patient_owner
from runtime.sql.engine import reading, writing
from runtime.sql.isolation_tables import is_isolated
from runtime.sql.records import Author, Row, log_write, one, tell_hosts
from runtime.sql.sealed import open_texts, place_of_span, sealer_of, shut_text
from runtime.sql.tables import alarms, associations, devices, exports, patients
from runtime.sql.within import PATIENTS, within

FRAME: Final = pl.Schema({"handle": pl.UInt32, "patient_key": pl.String, "start_us": pl.Int64, "end_us": pl.Int64})
_CHUNK: Final = 500
_WORN_BETWEEN: Final = select(*(associations.c[name] for name in ("device_handle", "patient_key", "start_us", "end_us"))).where(
    associations.c.device_handle.in_(bindparam("handles", expanding=True)),
    associations.c.superseded_us.is_(None),
    associations.c.start_us <= bindparam("until_us"),
    or_(associations.c.end_us.is_(None), associations.c.end_us > bindparam("from_us")),
)


@dataclass(frozen=True, slots=True)
class Touched:
    """What a correction touches: alarms notified and exports made in the window of the old belief and the new.

    `patient_keys` are those whose scores in the window were computed on the old belief, or lack what the new one gives.
    """

    handle: int
    from_us: int
    until_us: int | None
    patient_keys: list[str] = field(default_factory=list)
    alarm_ids: list[str] = field(default_factory=list)
    export_ids: list[int] = field(default_factory=list)


def associate(engine: Engine, author: Author, handle: int, patient_key: str, start_us: int, end_us: int | None = None) -> Row:
    """Put a device on a patient from `start_us` on.

    Raises NotFound, InvalidInput, or Conflict: the device is on somebody in that time or is retired, the patient has
    left by then or is in another hospital.
    """
    with writing(engine) as connection:
        span = {"device_handle": handle, "patient_key": patient_key, "start_us": start_us, "end_us": end_us}
        device = _check_span(connection, span)
        if device["status"] == "retired":
            raise Conflict(f"device {device['device_id']!r} is retired: it is put on nobody any more")
        if end_us is None or end_us > author.now_us:
            _check_connected(connection, device)
        row = _record(connection, author, span, device["hospital_id"])
        _tell_spans(connection, author, [handle])
        about = patient_owner(device["hospital_id"], patient_key)
        log_write(connection, author, "association.start", f"{device['device_id']} -> {patient_key}", span, about=about)
        return row


def _check_connected(connection: Connection, device: Row) -> None:
    """Raise Conflict for a device that would watch nobody: it is isolated, or its gateway is."""
    for handle, who in ((device["handle"], "it"), (device["gateway_handle"], "its gateway")):
        if handle is not None and connection.execute(select(is_isolated(literal(handle)))).scalar_one():
            raise Conflict(f"device {device['device_id']!r} watches nobody now, {who} is isolated: take another one")


def end_association(engine: Engine, author: Author, association_id: int, end_us: int) -> Row:
    """Take a device off a patient. Raises NotFound, InvalidInput, Conflict when the span has an end or was corrected."""
    with writing(engine) as connection:
        old = _believed(connection, association_id)
        if old["end_us"] is not None:
            raise Conflict(f"association {association_id} has an end already: correct it if that is wrong")
        row = _replace(connection, author, old, {"end_us": end_us})
        _tell_spans(connection, author, [old["device_handle"]])
        log_write(connection, author, "association.end", str(association_id), {"end_us": end_us}, about=_about(connection, row))
        return row


def correct_association(
    engine: Engine, author: Author, association_id: int, *, patient_key: str | None = None, start_us: int | None = None,
    end_us: int | None = None, withdraw: bool = False,
) -> tuple[Row, Touched]:  # fmt: skip
    """Say afterwards what was really so: another patient, start or end, or (`withdraw`) that it never was.

    Returns the span that is believed now (of a withdrawal the one that no longer is) and what that touches. The old
    span stays readable "as known then". Raises NotFound, InvalidInput, Conflict.
    """
    given = {"patient_key": patient_key, "start_us": start_us, "end_us": end_us}
    given = {name: value for name, value in given.items() if value is not None}
    if bool(given) == withdraw:
        raise InvalidInput("a correction names another patient, start or end, or withdraws the association: one of the two")
    with writing(engine) as connection:
        old = _believed(connection, association_id)
        new = None if withdraw else _replace(connection, author, old, given)
        if withdraw:
            _supersede(connection, author, old)
        _tell_spans(connection, author, [old["device_handle"]])
        said = given or {"withdraw": True}
        log_write(connection, author, "association.correct", str(association_id), said, about=_about(connection, new or old))
        withdrawn = _opened(connection, [{**old, "superseded_us": author.now_us}])[0]
        return new or withdrawn, _touched(connection, old, new)


def end_spans(connection: Connection, author: Author, at_us: int, *, patient_key: str) -> None:
    """No span of the patient goes on beyond `at_us`; one that was to begin later never was."""
    for span in _spans(connection, patient_key=patient_key):
        if span["start_us"] >= at_us:
            _supersede(connection, author, span)
        elif span["end_us"] is None or span["end_us"] > at_us:
            _replace(connection, author, span, {"end_us": at_us})
        else:
            continue
        _tell_spans(connection, author, [span["device_handle"]])


def add_spans(connection: Connection, author: Author, spans: Sequence[Row]) -> None:
    """Record many new spans that are open, at most one a device. Raises Conflict for a device that is on somebody then.

    For new patients of the device's own hospital: neither is looked at.
    """
    worn = {span["device_handle"]: span for span in spans}
    if len(worn) < len(spans):
        raise Conflict("a device is on one patient at a time: the list names one for two patients")
    present = select(associations).where(associations.c.superseded_us.is_(None))
    for other in connection.execute(present).mappings():
        span = worn.get(other["device_handle"])
        if span is not None and (other["end_us"] is None or other["end_us"] > span["start_us"]):
            raise _taken(connection, span, other["id"])
    values = [
        {**span, "recorded_us": author.now_us, "superseded_us": None, "who": author.who, "reason": author.reason}
        for span in spans
    ]
    if values and author.reason is not None:
        hospital_id = _hospital_of(connection, values[0]["device_handle"])
        texts = [(patient_owner(hospital_id, row["patient_key"]), place_of_span(row), author.reason) for row in values]
        for row, sealed in zip(values, sealer_of(connection).seal_many(texts), strict=True):
            row["reason"] = sealed
    if values:
        connection.execute(insert(associations), values)
        _tell_spans(connection, author, list(worn))


def forget_spans(connection: Connection, author: Author, patient_key: str) -> int:
    """Delete all spans of a patient, corrected ones too, and tell hosts; how many there were. Part of an erasure."""
    theirs = associations.c.patient_key == patient_key
    handles = list(connection.execute(select(associations.c.device_handle).where(theirs).distinct()).scalars())
    count = connection.execute(delete(associations).where(theirs)).rowcount
    if handles:
        _tell_spans(connection, author, handles)
    return count


def list_associations(
    engine: Engine, *, reach: Reach, clear: Reach = NOWHERE, handle: int | None = None, patient_key: str | None = None,
    known_at_us: int | None = None,
) -> list[Row]:  # fmt: skip
    """Spans of patients within `reach` by start; those believed now, or at `known_at_us`.

    `is_clear` of those within `clear`, too.
    """
    query = _believed_at(known_at_us, handle=handle, patient_key=patient_key)
    query = query.add_columns(within(clear, PATIENTS).label("is_clear"))
    query = query.join(patients, patients.c.patient_key == associations.c.patient_key).where(within(reach, PATIENTS))
    with reading(engine) as connection:
        return _opened(connection, [dict(row) for row in connection.execute(query).mappings()])


def as_frame(
    engine: Engine, *, handles: Iterable[int] | None = None, hospital_ids: Sequence[str] | None = None
) -> pl.DataFrame:
    """Spans believed now, for a point-in-time join (FRAME); of some devices or hospitals, or of all."""
    query = select(*(associations.c[name] for name in ("device_handle", "patient_key", "start_us", "end_us")))
    query = query.where(associations.c.superseded_us.is_(None))
    if hospital_ids is not None:
        inside = select(devices.c.handle).where(devices.c.hospital_id.in_(list(hospital_ids)))
        query = query.where(associations.c.device_handle.in_(inside))
    with reading(engine) as connection:
        rows = [tuple(row) for row in connection.execute(query.order_by(associations.c.device_handle, associations.c.start_us))]
    frame = pl.DataFrame(rows, schema=FRAME, orient="row")
    return frame if handles is None else frame.filter(pl.col("handle").is_in(list(handles)))


def worn_between(engine: Engine, handles: Sequence[int], from_us: int, until_us: int) -> pl.DataFrame:
    """Spans believed now of some thousand devices that reach into a range, both ends included (FRAME)."""
    rows: list[tuple[Any, ...]] = []
    with reading(engine) as connection:
        for start in range(0, len(handles), _CHUNK):
            part = {"handles": handles[start : start + _CHUNK], "from_us": from_us, "until_us": until_us}
            rows += [tuple(row) for row in connection.execute(_WORN_BETWEEN, part)]
    return pl.DataFrame(rows, schema=FRAME, orient="row")


def _spans(connection: Connection, *, handle: int | None = None, patient_key: str | None = None) -> list[Row]:
    return [dict(row) for row in connection.execute(_believed_at(None, handle=handle, patient_key=patient_key)).mappings()]


def _believed_at(known_at_us: int | None, *, handle: int | None = None, patient_key: str | None = None) -> Select[Any]:
    query = select(associations).order_by(associations.c.start_us, associations.c.id)
    if known_at_us is None:
        query = query.where(associations.c.superseded_us.is_(None))
    else:
        still = or_(associations.c.superseded_us.is_(None), associations.c.superseded_us > known_at_us)
        query = query.where(associations.c.recorded_us <= known_at_us, still)
    if handle is not None:
        query = query.where(associations.c.device_handle == handle)
    if patient_key is not None:
        query = query.where(associations.c.patient_key == patient_key)
    return query


def _believed(connection: Connection, association_id: int) -> Row:
    row = one(connection, select(associations).where(associations.c.id == association_id), f"association {association_id}")
    if row["superseded_us"] is not None:
        raise Conflict(f"association {association_id} was corrected before: correct the span that replaced it")
    return row


def _check_span(connection: Connection, span: Row) -> Row:
    """Raise what is wrong with a span, else return its device. `id`, if it has one, is of the span that it replaces."""
    start_us, end_us, handle = span["start_us"], span["end_us"], span["device_handle"]
    if end_us is not None and end_us <= start_us:
        raise InvalidInput(f"an association ends after it starts, not {end_us} <= {start_us} (µs)")
    patient = one(
        connection, select(patients).where(patients.c.patient_key == span["patient_key"]), f"patient {span['patient_key']!r}"
    )
    device = one(connection, select(devices).where(devices.c.handle == handle), f"device with handle {handle}")
    if patient["hospital_id"] != device["hospital_id"]:
        raise Conflict(f"device {device['device_id']!r} and patient {span['patient_key']!r} are not in the same hospital")
    left_us = patient["discharged_us"]
    if left_us is not None and (end_us is None or end_us > left_us):
        raise Conflict(f"patient {span['patient_key']!r} was discharged at {left_us} (µs), the association goes on after that")
    overlapping = select(associations.c.id).where(
        associations.c.device_handle == handle, associations.c.superseded_us.is_(None), associations.c.id != span.get("id", 0),
        or_(associations.c.end_us.is_(None), associations.c.end_us > start_us),
    )  # fmt: skip
    if end_us is not None:
        overlapping = overlapping.where(associations.c.start_us < end_us)
    other = connection.execute(overlapping.limit(1)).scalar_one_or_none()
    if other is not None:
        raise _taken(connection, span, other)
    return device


def _taken(connection: Connection, span: Row, other_id: int) -> Conflict:
    name = connection.execute(select(devices.c.device_id).where(devices.c.handle == span["device_handle"])).scalar_one()
    return Conflict(
        f"device {name!r} is on a patient in that time already (association {other_id}): "
        "end or correct that one first, a device is on one patient at a time"
    )


def _replace(connection: Connection, author: Author, old: Row, values: dict[str, Any]) -> Row:
    new = {name: old[name] for name in ("device_handle", "patient_key", "start_us", "end_us")} | values
    device = _check_span(connection, {**new, "id": old["id"]})
    _supersede(connection, author, old)
    return _record(connection, author, new, device["hospital_id"])


def _supersede(connection: Connection, author: Author, old: Row) -> None:
    connection.execute(update(associations).where(associations.c.id == old["id"]).values(superseded_us=author.now_us))


def _record(connection: Connection, author: Author, span: Row, hospital_id: str) -> Row:
    values = {**span, "recorded_us": author.now_us, "who": author.who, "reason": author.reason}
    owner = patient_owner(hospital_id, span["patient_key"])
    sealed = shut_text(connection, owner, place_of_span(values), author.reason)
    key = connection.execute(insert(associations).values({**values, "reason": sealed})).inserted_primary_key
    assert key is not None
    return {"id": key[0], **values, "superseded_us": None}


def _tell_spans(connection: Connection, author: Author, handles: Sequence[int]) -> None:
    """Tell hosts all spans of these devices, which are of one hospital."""
    few = handles if len(handles) < 500 else None
    query = (
        select(associations.c.device_handle, associations.c.start_us, associations.c.end_us, patients.c.handle)
        .join(patients, patients.c.patient_key == associations.c.patient_key)
        .where(associations.c.superseded_us.is_(None), *([associations.c.device_handle.in_(few)] if few else []))
        .order_by(associations.c.start_us)
    )
    spans: dict[int, list[AssociationSpan]] = {handle: [] for handle in handles}
    for handle, start_us, end_us, patient in connection.execute(query):
        if handle in spans:
            spans[handle].append(AssociationSpan(patient, start_us, end_us))
    hospital_id = _hospital_of(connection, handles[0])
    tell_hosts(connection, author, hospital_id, *(DeviceAssociated(hospital_id, handle, spans[handle]) for handle in handles))


def _hospital_of(connection: Connection, handle: int) -> str:
    return str(connection.execute(select(devices.c.hospital_id).where(devices.c.handle == handle)).scalar_one())


def _about(connection: Connection, span: Row) -> Owner:
    return patient_owner(_hospital_of(connection, span["device_handle"]), span["patient_key"])


def _opened(connection: Connection, spans: list[Row]) -> list[Row]:
    return open_texts(connection, spans, "reason", [place_of_span(span) for span in spans])


def _touched(connection: Connection, old: Row, new: Row | None) -> Touched:
    """The whole window of both spans is looked at: an alarm outside what moved is listed rather than one missed."""
    spans = [span for span in (old, new) if span is not None]
    from_us = min(span["start_us"] for span in spans)
    ends = [span["end_us"] for span in spans]
    until_us = None if None in ends else max(ends)
    keys = sorted({span["patient_key"] for span in spans})
    own = connection.execute(select(patients.c.handle).where(patients.c.patient_key.in_(keys))).scalars()
    handles = {old["device_handle"], *own}
    return Touched(
        old["device_handle"], from_us, until_us, keys,
        alarm_ids=_alarms_touched(connection, handles, from_us, until_us),
        export_ids=_exports_touched(connection, handles, from_us, until_us),
    )  # fmt: skip


def _alarms_touched(connection: Connection, handles: set[int], from_us: int, until_us: int | None) -> list[str]:
    """Alarms of the device, and those of the patients (early warning, not monitored), that were on in the window."""
    query = select(alarms.c.alarm_id).where(
        alarms.c.handle.in_(handles), or_(alarms.c.ended_us.is_(None), alarms.c.ended_us >= from_us)
    )
    if until_us is not None:
        query = query.where(alarms.c.onset_us < until_us)
    return list(connection.execute(query.order_by(alarms.c.onset_us, alarms.c.alarm_id)).scalars())


def _exports_touched(connection: Connection, handles: set[int], from_us: int, until_us: int | None) -> list[int]:
    """Exports without handles are of everything."""
    query = select(exports.c.id, exports.c.handles).where(or_(exports.c.until_us.is_(None), exports.c.until_us > from_us))
    if until_us is not None:
        query = query.where(or_(exports.c.from_us.is_(None), exports.c.from_us < until_us))
    rows = connection.execute(query.order_by(exports.c.id))
    return [row.id for row in rows if row.handles is None or not handles.isdisjoint(row.handles)]
