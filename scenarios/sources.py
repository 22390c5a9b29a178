"""What a generator plays, ready to send: the worlds and recordings of its order, as one schedule of messages."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Protocol

from domain.fleet_manifest import FleetManifest, FleetRegistered
from scenarios.connections import Sender
from scenarios.fleets import plan_world, world_faults, world_movements
from scenarios.generator_orders import RecordingRecipe, WorldRecipe
from scenarios.model import Fault
from scenarios.recorded import RecordedSource
from scenarios.roster import Roster
from scenarios.schedule import Message, prepare
from sim.emission import Emission
from sim.fleet import Gateway
from sim.world import World

_DROPS_CONNECTIONS = ("power-failure", "wan-cut")


class Source(Protocol):
    """One thing to play. `senders` are the clients it needs; emissions index them."""

    senders: list[Sender]
    faults: list[Fault]

    def emissions(self, start_us: int, duration_s: float | None) -> Iterator[Emission]:
        """In order of due time, counted from the start of the run."""
        ...

    def hospital_ids(self) -> list[str]: ...

    def truth(self) -> list[tuple[str, float, str, str]]: ...


class WorldSource:
    """A simulated fleet. The world is built when the run begins, because its readings carry the time of day."""

    def __init__(self, recipe: WorldRecipe) -> None:
        self._recipe = recipe
        self._plan = plan_world(recipe.fleet, recipe.seed, recipe.region_id)
        self.senders = senders_of(self._plan.manifest, recipe.registered, self._plan.gateways)
        self.faults = recipe.faults
        self._world: World | None = None

    def emissions(self, start_us: int, duration_s: float | None) -> Iterator[Emission]:
        assert duration_s is not None, "a world has no end of its own"
        recipe = self._recipe
        movements = world_movements(self._plan, recipe.fleet, recipe.seed, recipe.pace, duration_s)
        self._world = World(
            self._plan, recipe.seed, start_us, world_faults(recipe.faults), recipe.fleet.tick_s, movements=movements
        )
        self._world.bind(recipe.registered)
        return self._world.emissions(duration_s)

    def hospital_ids(self) -> list[str]:
        return [hospital.hospital_id for hospital in self._plan.manifest.hospitals]

    def truth(self) -> list[tuple[str, float, str, str]]:
        told = self._world.truth if self._world is not None else []
        return [(row.kind, row.at_s, row.subject, row.detail) for row in told]


def senders_of(manifest: FleetManifest, registered: FleetRegistered, gateways: Sequence[Gateway]) -> list[Sender]:
    """The gateways of a plan as clients, in its order."""
    roster = Roster.of([(manifest, registered)])
    senders = []
    for gateway in gateways:
        key = (manifest.hospitals[gateway.hospital].hospital_id, gateway.device_id)
        senders.append(Sender(roster.tokens[key], roster.handle_of[key], key[0]))
    return senders


class Sources:
    """All of an order together. Sender numbers run through; messages come in order of due time."""

    def __init__(self, recipes: Sequence[WorldRecipe | RecordingRecipe]) -> None:
        self._sources: list[Source] = [
            WorldSource(recipe) if isinstance(recipe, WorldRecipe) else RecordedSource(recipe) for recipe in recipes
        ]
        self.senders = [sender for source in self._sources for sender in source.senders]

    def messages(self, start_us: int, duration_s: float | None) -> Iterator[Message]:
        """Everything to send, encoded as it is asked for."""
        streams, first = [], 0
        for source in self._sources:
            streams.append(self._messages_of(source, first, start_us, duration_s))
            first += len(source.senders)
        yield from heapq.merge(*streams, key=lambda message: message.due_s)

    def _messages_of(self, source: Source, first: int, start_us: int, duration_s: float | None) -> Iterator[Message]:
        for emission in source.emissions(start_us, duration_s):
            sender = first + emission.gateway
            message = prepare(emission, sender, as_json=self.senders[sender].as_json, base=start_us)
            if message is not None:
                yield message

    def connection_faults(self) -> list[tuple[Fault, list[str]]]:
        """Faults that break connections, each with the hospitals it meets."""
        found = []
        for source in self._sources:
            ids = source.hospital_ids()
            for fault in source.faults:
                if fault.kind in _DROPS_CONNECTIONS and fault.for_s > 0:
                    met = [ids[number] for number in fault.hospitals if number < len(ids)] if fault.hospitals else ids
                    found.append((fault, met))
        return found

    def truth(self) -> list[tuple[str, float, str, str]]:
        return [row for source in self._sources for row in source.truth()]
