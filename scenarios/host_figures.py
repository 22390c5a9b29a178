"""Service times as the hosts count them: turns by how many readings they held and how long they took.

The bins are powers of two (see `actors.host_metrics`); the twin is calibrated from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from domain import subjects
from domain.errors import VitalgridError
from runtime.bus import Bus
from scenarios.report.document import ServiceTimes


async def service_times(bus: Bus | None, hosts: Iterable[str]) -> list[ServiceTimes]:
    """What each host answers; empty where the bus is out of reach. A host that does not answer is left out."""
    if bus is None:
        return []
    found = []
    for host in sorted(hosts):
        try:
            answer = await bus.ask(subjects.host_metrics(host), b"")
        except VitalgridError:
            continue
        found.append(service_times_of(host, msgspec.json.decode(answer)))
    return found


def service_times_of(host: str, report: dict[str, Any]) -> ServiceTimes:
    """A host's counters as the report keeps them; bins without a count at the end are cut off."""
    counts = report["service_us_by_size"]
    sizes = 1 + max((i for i, row in enumerate(counts) if any(row)), default=-1)
    times = 1 + max((j for row in counts for j, count in enumerate(row) if count), default=-1)
    return ServiceTimes(
        host=host,
        readings_up_to=[2**i for i in range(sizes)],
        service_us_up_to=[2**j for j in range(times)],
        counts=[row[:times] for row in counts[:sizes]],
        commit_us_counts=list(report.get("commit_us", [])),
    )
