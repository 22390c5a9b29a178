"""Requests with an idempotency key, of readings or of an event: decoded, claimed, stored once."""

from __future__ import annotations

from domain.ports import OnceIntake, Receipt, Sender
from gateways.formats import AnyFormat


async def stored_once(intake: OnceIntake, row: AnyFormat, sender: Sender, payload: bytes, key: str, arrival_us: int) -> Receipt:
    """Store the payload, or find that it is stored. It is checked before the key is claimed, and takes the claim's arrival.

    Raises RejectedInput, Conflict when the key was taken for another payload, Unavailable.
    """
    claim = await intake.claim(sender, row.decode(payload, sender, arrival_us), key, payload)
    if claim.receipt is not None:
        return claim.receipt
    return await intake.submit_once(sender, row.decode(payload, sender, claim.arrival_us), claim)
