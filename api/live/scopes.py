"""What a client of a live stream may get, from the database as it is when the client comes."""

from __future__ import annotations

from sqlalchemy import Engine, select

from api.live.alarms import AlarmScope
from api.live.readings import Watch
from api.selection import Selection, handles_of
from domain.labels import LABELS
from domain.permissions import Level, Reach
from domain.principals import Place
from runtime.sql.engine import reading
from runtime.sql.tables import hospitals, patients


def alarm_scope(engine: Engine, reach: Reach) -> AlarmScope:
    """Hospitals any part of which is within `reach`, and the patients above their class."""
    above = select(patients.c.patient_key, patients.c.level).where(patients.c.level > LABELS["patients"])
    with reading(engine) as connection:
        raised = {row.patient_key: int(row.level) for row in connection.execute(above)}
        places = {*reach.levels, *(place for place, _ in reach.patients)}
        if any(place == Place(place.region_id) for place in places):
            return AlarmScope(reach, None, raised)
        ids = {place.hospital_id for place in places if place.hospital_id is not None}
        districts = {place.district_id for place in places if place.district_id is not None}
        query = select(hospitals.c.id, hospitals.c.district)
        query = query.where(hospitals.c.id.in_(sorted(ids)) | hospitals.c.district.in_(sorted(districts)))
        return AlarmScope(reach, {row.id: row.district for row in connection.execute(query)}, raised)


def live_handles(
    engine: Engine, selection: Selection, *, reach: Reach, now_us: int, known: int
) -> tuple[list[int], Watch | None]:
    """Whose readings are shown from now on, and what would change that: nothing, for who is shown all of everybody."""
    found = selection.handles if selection.handles is not None else handles_of(engine, selection.hospitals)
    judged = selection.judged
    on = {handle: key for handle, key, from_us, until_us in judged.spans
          if from_us <= now_us and (until_us is None or now_us < until_us)}  # fmt: skip
    hidden = judged.closed | {handle for handle in judged.partly if (handle, on.get(handle)) not in judged.allowed}
    handles = [handle for handle in found if handle not in hidden]
    lowest = min(reach.levels.values(), default=Level.PUBLIC)
    by_ward = any(place.ward_id is not None for place in reach.levels)
    if lowest is Level.STRICT and not reach.patients and not by_ward:  # nothing is hidden but who is withheld
        return handles, Watch(known, frozenset(), by_patient=False, by_ward=False, hidden=hidden) if hidden else None
    with reading(engine) as connection:
        above = select(patients.c.handle).where(patients.c.level > LABELS["patients"])
        raised = frozenset(connection.execute(above).scalars())
    by_patient = bool(reach.patients) or lowest < LABELS["patients"] or bool(judged.partly)
    return handles, Watch(known, raised, by_patient, by_ward, hidden)
