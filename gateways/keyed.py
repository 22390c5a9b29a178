"""Requests with an idempotency key, of readings or of an event: decoded, claimed, stored once."""

from __future__ import annotations

from domain.ports import OnceIntake, Principal, Receipt
from gateways.formats import AnyFormat


async def stored_once(
    intake: OnceIntake, row: AnyFormat, principal: Principal, payload: bytes, key: str, arrival_us: int
) -> Receipt:
    """Store the payload, or find that it is stored. It is checked before the key is claimed, and takes the claim's arrival.

    Raises RejectedInput, Conflict when the key was taken for another payload, Unavailable.
    """
    claim = await intake.claim(principal, row.decode(payload, principal, arrival_us), key, payload)
    if claim.receipt is not None:
        return claim.receipt
    return await intake.submit_once(principal, row.decode(payload, principal, claim.arrival_us), claim)
