"""Which host holds which shard. Pure: given loads and who is alive, the wished-for assignment.

A shard stays where it is unless its host is gone or much busier than another, because a move costs a snapshot,
a restore and a replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

_IMBALANCE: Final = 1.5  # a host may carry this many times the average before shards leave it


def assign_shards(
    shards: Sequence[int],
    hosts: Sequence[str],
    current: Mapping[int, str],
    load: Mapping[int, float] | None = None,
) -> dict[int, str]:
    """A host for every shard.

    Args:
        shards: all shards of the topology.
        hosts: names of hosts that are alive; none gives an empty assignment.
        current: who holds what now; shards of dead hosts are given away, the rest moves only to even out.
        load: relative work of each shard (devices, readings/s), 1 where it is not known.
    """
    if not hosts:
        return {}
    weight = {shard: max((load or {}).get(shard, 1.0), 1.0) for shard in shards}
    carried = dict.fromkeys(hosts, 0.0)
    placed: dict[int, str] = {}
    for shard in shards:
        holder = current.get(shard)
        if holder in carried:
            placed[shard] = holder
            carried[holder] += weight[shard]
    for shard in sorted((s for s in shards if s not in placed), key=lambda s: -weight[s]):
        lightest = min(hosts, key=lambda host: (carried[host], host))
        placed[shard] = lightest
        carried[lightest] += weight[shard]
    _even_out(placed, carried, weight)
    return placed


def _even_out(placed: dict[int, str], carried: dict[str, float], weight: Mapping[int, float]) -> None:
    """Move shards from the busiest to the idlest while that narrows a gap worth a move."""
    average = sum(carried.values()) / len(carried)
    while True:
        busiest = max(carried, key=lambda host: (carried[host], host))
        idlest = min(carried, key=lambda host: (carried[host], host))
        gap = carried[busiest] - carried[idlest]
        movable = [s for s, host in placed.items() if host == busiest and weight[s] < gap]
        if not movable or carried[busiest] <= _IMBALANCE * average:
            return
        shard = min(movable, key=lambda s: (abs(gap / 2 - weight[s]), s))
        placed[shard] = idlest
        carried[busiest] -= weight[shard]
        carried[idlest] += weight[shard]
