"""What a world or a recording says, in schedule order."""

from __future__ import annotations

from dataclasses import dataclass

from domain.readings import ReadingBatch


@dataclass(frozen=True, slots=True)
class Emission:
    """Readings that sender `gateway` hands to the platform at `due_s` seconds after the start of the run.

    `due_s` is fixed by the schedule (open loop), never by answers. `gateway` indexes the plan's (or recording's)
    `gateways`; handles are bound, `source` is the gateway's handle and `sequence` its running number of readings.
    `retransmission`: the same readings, with the same sequences, were sent before; they must not be stored again.
    """

    due_s: float
    gateway: int
    readings: ReadingBatch
    retransmission: bool = False


@dataclass(frozen=True, slots=True)
class Truth:
    """One thing that really happened in the world, whatever the platform came to know of it.

    kind: `deteriorated`, `recovered`, `admitted`, `transferred`, `discharged`, `fault-began` or `fault-ended`; subject:
    `sz.h001/p000012` (patient), `sz.h001/gw-007` (gateway) or `sz.h001` (a fault of several of its devices).
    """

    kind: str
    at_s: float
    subject: str
    detail: str = ""
