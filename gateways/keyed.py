"""Requests with an idempotency key, of readings or of an event: decoded, claimed, stored once."""

from __future__ import annotations

from domain.messages import DeviceEvent
from domain.ports import OnceIntake, Receipt, Sender
from domain.readings import ReadingBatch
from gateways.formats import AnyFormat


async def stored_once(
    intake: OnceIntake, row: AnyFormat, sender: Sender, payload: bytes, content: ReadingBatch | DeviceEvent, key: str
) -> Receipt:  # fmt: skip
    """Store the payload, or find that it is stored. `content` is what it says now; it takes the claim's arrival.

    Raises RejectedInput, Conflict when the key was taken for another payload, Unavailable.
    """
    claim = await intake.claim(sender, content, key, payload)
    if claim.receipt is not None:
        return claim.receipt
    return await intake.submit_once(sender, row.decode(payload, sender, claim.arrival_us), claim)
