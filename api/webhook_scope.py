"""Which alarm events the webhook's receiver may have, and the entry in the access log before each of them goes.

Judged by labels as live streams are (`api.live.alarms.AlarmScope`), by what the database says at that moment: a patient
whose records are withheld is within no level. Clauses 6.1b, 9.3c, 9.3e.
"""

from __future__ import annotations

import uuid
from typing import Final

from api.live.scopes import alarm_scope
from api.services import Backend, WebhookTarget
from domain.accesses import Access, Interaction, audit_event
from domain.alarms import AlarmEvent
from domain.errors import AuditUnavailable
from domain.permissions import Action, Reach, View
from domain.principals import WEBHOOK, Kind, Place, Principal
from runtime.access_journal import NewAccess

RECEIVER: Final = Principal(Kind.SERVICE, WEBHOOK, WEBHOOK)
_ROUTE: Final = "webhook"
_GONE_OUT: Final = 200


class WebhookScope:
    """What the settings give the receiver: a place and a highest level."""

    def __init__(self, backend: Backend, target: WebhookTarget) -> None:
        self._backend = backend
        self._reach = Reach({target.place or Place(backend.services.region_id): target.highest_level}, {})

    async def holds(self, event: AlarmEvent) -> bool:
        """Whether the receiver may have it now. Raises what the database does."""
        scope = await self._backend.lanes.sql(alarm_scope, self._backend.engine, self._reach)
        return scope.holds(event.subject)

    def check_open(self) -> None:
        """Raises AuditUnavailable while accesses cannot be noted: the receiver stands at no bed, so it waits."""
        closed = self._backend.trail.why_closed()
        if closed is not None:
            raise AuditUnavailable(closed)

    async def note(self, event: AlarmEvent) -> None:
        """Return once the access log will know that the receiver gets it. Raises AuditUnavailable."""
        self.check_open()
        services, subject = self._backend.services, event.subject
        place = Place(services.region_id, hospital_id=subject.hospital_id, ward_id=subject.ward_id)
        access = Access(
            id=f"a-{uuid.uuid4().hex}", at_us=services.clock.now_us(), request_id=event.event_id, principal=RECEIVER,
            action=Action.ALARM_READ, interaction=Interaction.READ, route=_ROUTE, path=f"/webhook/alarms/{event.alarm_id}",
            status=_GONE_OUT, place=str(place), patients=() if subject.patient_key is None else (subject.patient_key,),
            view=None if subject.patient_key is None else View.MASKED,
        )  # fmt: skip
        await self._backend.trail.note(NewAccess(access.id, access.at_us, audit_event(access, services.region_id)))
