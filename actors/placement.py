"""Which host holds which shard. Pure: given loads and who is alive, the wished-for assignment.

A shard stays where it is unless its host is gone or the hosts are far from even, because a move costs a snapshot,
a restore and a replay. When they are (one has joined, say), as many move as make them even, and no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

# a host may carry so many times the average, or so little of it, before shards move
_MOST: Final = 1.5
_LEAST: Final = 0.5


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
    """Of hosts far from even, move shards from the busiest to the idlest while that narrows the gap between them."""
    average = sum(carried.values()) / len(carried)
    if max(carried.values()) <= _MOST * average and min(carried.values()) >= _LEAST * average:
        return
    while True:
        busiest = max(carried, key=lambda host: (carried[host], host))
        idlest = min(carried, key=lambda host: (carried[host], host))
        gap = carried[busiest] - carried[idlest]
        movable = [s for s, host in placed.items() if host == busiest and weight[s] < gap]
        if not movable:
            return
        shard = min(movable, key=lambda s: (abs(gap / 2 - weight[s]), s))
        placed[shard] = idlest
        carried[busiest] -= weight[shard]
        carried[idlest] += weight[shard]
