"""The way of a message that was refused: by which door, of whom, why, and whether it was repaired. Not what it said."""

from __future__ import annotations

from typing import Final

from api.schemas.traces import SenderOut, TraceOut
from api.tracing.question import Tracing, unknown
from api.tracing.steps import Steps
from domain.errors import IntegrityViolation, NotFound
from domain.ids import NO_HANDLE
from domain.labels import LABELS
from domain.permissions import Located
from domain.principals import Place
from domain.traces import OfReject
from gateways.formats import ALL_FORMATS
from runtime.sql.access import resubmissions
from runtime.sql.devices import find_device
from runtime.sql.locating import place_of

_TOPICS: Final = frozenset(name for row in ALL_FORMATS for name in (row.topic, row.path))


async def of_reject(asked: Tracing, key: OfReject) -> TraceOut:
    """Raises NotFound for what is none, or none within reach."""
    behind = asked.behind
    try:
        kept = await behind.rejects.get(key.sequence)
    except (NotFound, IntegrityViolation):
        raise unknown(key) from None
    reject = kept.reject
    place = Place(behind.services.region_id)
    if reject.hospital_id is not None:
        place = await behind.read(place_of, behind.engine, reject.hospital_id)
    if not asked.who.reach.holds(Located(place, LABELS["REJECTS"])):
        raise unknown(key)
    steps = Steps(unknown=["what it said: GET /api/v1/rejects/{n} shows it to whoever may read rejects"])
    whose = "a host" if reject.door == "host" else f"the {reject.door} door"
    steps.add(
        "received", reject.received_us, f"came to {whose}", door=reject.door, topic=_topic(reject.topic),
        size_bytes=len(reject.payload),
    )  # fmt: skip
    steps.add("rejected", reject.received_us, f"refused: {reject.reason}; kept among the rejects", reason=reject.reason)
    answers = await behind.read(resubmissions, behind.engine, [reject.reject_id])
    answer = answers.get(reject.reject_id)
    senders = [] if reject.principal is None else [await _sender(asked, reject.principal)]
    return TraceOut(
        trace=str(key), receipt=None, kind="reject", kept_in=["rejects"], steps=steps.out(asked.zone), senders=senders,
        rejects=[str(key)], resubmitted_as=answer["receipt"] if answer else reject.resubmitted_as, unknown=steps.unknown,
    )  # fmt: skip


def _topic(topic: str | None) -> str | None:
    """One of ours. Whatever else a sender wrote there may say anything of anybody."""
    return topic if topic in _TOPICS else None


async def _sender(asked: Tracing, principal: str) -> SenderOut:
    """`principal` is `hospital/device`, as doors know senders."""
    hospital_id, _, device_id = principal.partition("/")
    try:
        row = await asked.behind.read(find_device, asked.behind.engine, hospital_id, device_id)
    except NotFound:
        return SenderOut(sender=None, handle=NO_HANDLE)
    return SenderOut(sender=principal, handle=row["handle"])
