"""Which host holds which shard. Pure: given loads and who is alive, the wished-for assignment.

A shard stays where it is unless its host is gone or the hosts are far from even, because a move costs a snapshot,
a restore and a replay. When they are (one has joined, say), as many move as make them even, and no more.

A dedicated shard gets a host on which there is nothing else; the rest is spread over the other hosts. Until there is a
host for it, it is held among the others: a shard that nobody holds raises no alarms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final

# a host may carry so many times the average, or so little of it, before shards move
_MOST: Final = 1.2
_LEAST: Final = 0.8


def assign_shards(
    shards: Sequence[int],
    hosts: Sequence[str],
    current: Mapping[int, str],
    load: Mapping[int, float] | None = None,
    *,
    dedicated: Collection[int] = (),
    shared_hosts: int = 1,
) -> dict[int, str]:
    """A host for every shard.

    Args:
        shards: all shards of the topology.
        hosts: names of hosts that are alive; none gives an empty assignment.
        current: who holds what now; shards of dead hosts are given away, the rest moves only to even out.
        load: relative work of each shard (devices, readings/s), 1 where it is not known.
        dedicated: shards that are to have a host with nothing else on it.
        shared_hosts: no host is emptied for a dedicated shard unless so many are left to the others: while a host is
            being replaced it is waited for, rather than that everything moves twice.
    """
    if not hosts:
        return {}
    own = _own_hosts(hosts, current, sorted(set(dedicated) & set(shards)), shared_hosts)
    others = [shard for shard in shards if shard not in own]
    taken = set(own.values())
    spread = _spread(others, [host for host in hosts if host not in taken], current, load or {})
    return {shard: own[shard] if shard in own else spread[shard] for shard in shards}


def _own_hosts(hosts: Sequence[str], current: Mapping[int, str], dedicated: list[int], shared_hosts: int) -> dict[int, str]:
    """Hosts for dedicated shards alone, as far as there are any. One host at least is left to the other shards."""
    held = Counter(current.values())
    own: dict[int, str] = {}
    free = set(hosts)

    def others_on(host: str, shard: int) -> int:
        return held[host] - (current.get(shard) == host)

    def take(shard: int, *, emptied: bool) -> None:
        host = min(free, key=lambda host: (others_on(host, shard), current.get(shard) != host, host))
        if emptied or not others_on(host, shard):
            own[shard] = host
            free.discard(host)

    # first those that are alone already, so that none loses its host to another
    for shard in sorted(dedicated, key=lambda shard: (current.get(shard) not in free or held[current[shard]] > 1, shard)):
        if len(free) > 1:
            take(shard, emptied=False)
    for shard in dedicated:
        if shard not in own and len(free) > max(shared_hosts, 1):
            take(shard, emptied=True)
    return own


def _spread(
    shards: Sequence[int], hosts: Sequence[str], current: Mapping[int, str], load: Mapping[int, float]
) -> dict[int, str]:
    """The shards over the hosts: each where it is, what is free to the lightest, then evened out."""
    weight = {shard: max(load.get(shard, 1.0), 1.0) for shard in shards}
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
