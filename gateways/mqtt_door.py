"""The MQTT door: MQTT 3.1.1, QoS 0 and 1, TLS, for devices and hospital gateways. Clauses 5.4a, 5.4c, 5.4e, 7.3.

Identity comes from the connection: the token is the password, or the user name (as ThingsBoard's devices send it); or the
certificate that was shown in the TLS handshake, beside which a token has to be the same device's.
CONNACK 4 answers a CONNECT without either, 5 a wrong one, 3 a door that is full or cannot ask who it is, and a CONNECT that a
later one of its sender overtook on the way.
Session take-over: a CONNECT of the same sender ends the older connection, in the order in which they came. A client id is its
sender's own: who calls itself by another's takes nothing over from it, and is noticed (3.1.4-2 holds within a sender: else
whoever has a token could silence any device). No session state is kept: a device subscribes again when it connects again, and
repeats what was not acknowledged.
Events: `online` when a device connects, `offline` when its connection is lost or ended by us, with its will's text as
detail; `disconnected` when it says goodbye (DISCONNECT drops the will). A take-over is neither.
A connection whose token was replaced, whose certificate was revoked or has ended, or whose device was retired or isolated,
is ended: within a second of `recheck`, and within a quarter of a minute if nobody says so.
What a device itself says (`lead_off`, …) comes on `v1/devices/me/events`; see `gateways.events_json`.
Not covered: QoS 2, MQTT 5, retained messages, subscriptions other than `v1/devices/me/errors` and
`v1/devices/me/receipts` (refused with 0x80).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import ssl
from collections.abc import Collection, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final

from domain.errors import Unavailable
from domain.messages import SecurityKind
from domain.ports import Clock, Identities, PackedIntake, Sender
from domain.traces import ConnectionStamp
from gateways.counters import DoorCounters
from gateways.door_stamps import DoorStamps
from gateways.listener import Listener, ListenerLimits, bound
from gateways.mqtt_connection import CLOSING, DEFECT, DOOR, GOODBYE, TAKEN_OVER, MqttConnection
from gateways.mqtt_hello import REVOKED, will_text
from gateways.presence import Presence
from gateways.watch import Watch

logger = logging.getLogger(__name__)

_SWEEP_S: Final = 0.5
_RECHECK_S: Final = 15.0  # a message that something was revoked may be lost
_SIGHTED_EVERY_S: Final = 600.0  # that one is still connected is noted so often, and told once an hour
_SPARE_SOCKETS: Final = 1_000  # above the connection cap, to tell those who come that there is no room


@dataclass(frozen=True, slots=True)
class MqttLimits:
    """As `runtime.settings.DoorSettings`. `connect_timeout_s`: longest wait for the whole of CONNECT on a fresh connection;
    `write_timeout_s`: for a peer that does not read what it is answered.
    """

    max_payload_bytes: int = 1_048_576
    max_connections: int = 20_000
    max_in_flight: int = 64
    connect_timeout_s: float = 10.0
    write_timeout_s: float = 30.0
    max_per_address: int = 20_000
    max_strangers: int = 512
    max_strangers_per_address: int = 256

    @property
    def listener(self) -> ListenerLimits:
        return ListenerLimits(
            self.max_connections + _SPARE_SOCKETS, self.max_per_address, self.max_strangers, self.max_strangers_per_address,
            self.connect_timeout_s,
        )  # fmt: skip


class MqttDoor:
    """Listens between `start` and `close`. `counters` may be read at any time."""

    def __init__(
        self,
        identities: Identities,
        intake: PackedIntake,
        clock: Clock,
        *,
        limits: MqttLimits | None = None,
        tls: ssl.SSLContext | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.watch = watch or Watch(intake, clock)
        self.watch.connected = self._whereabouts
        self.identities = identities
        self.intake = intake
        self.clock = clock
        self.counters = DoorCounters()
        self._stamps = DoorStamps(DOOR)
        limits = limits or MqttLimits()
        self.max_payload_bytes = limits.max_payload_bytes
        self.max_in_flight = limits.max_in_flight
        self.connect_timeout_s = limits.connect_timeout_s
        self.write_timeout_s = limits.write_timeout_s
        self._max_connections = limits.max_connections
        self._tls = tls
        self._presence = Presence(intake, clock)
        self._connections: set[MqttConnection] = set()
        self._by_handle: dict[int, MqttConnection] = {}
        self._by_client_id: dict[str, MqttConnection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener_limits = limits.listener
        self._listener: Listener | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._checker: asyncio.Task[None] | None = None
        self._is_recheck_due = asyncio.Event()
        self.changes = 0  # of credentials, that were told
        self.turns: Iterator[int] = itertools.count()  # of CONNECTs, as they came, or as their wait in a conflict ended

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which is a free one for `port` 0."""
        listening = bound(host, port)
        self._presence.start()
        self.watch.start()
        self._listener = Listener(
            lambda guest: MqttConnection(self, guest), self._listener_limits, self._tls, self.counters.connections_refused
        )
        self._listener.start(listening)
        self._sweeper = asyncio.create_task(self._sweep())
        self._checker = asyncio.create_task(self._check_credentials())
        return int(listening.getsockname()[1])

    async def close(self, deadline_s: float = 10.0) -> None:
        """Take no more messages, answer those taken (at most for `deadline_s`), then end all connections."""
        if self._listener is None or self._sweeper is None or self._checker is None:
            return
        self._listener.close()
        self._sweeper.cancel()
        self._checker.cancel()
        for connection in self._connections:
            connection.stop_reading()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                while self._tasks or not all(c.is_idle for c in self._connections):  # noqa: ASYNC110 (many, and once)
                    await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.end(CLOSING)
        await self._presence.close()
        await self.watch.close()

    def recheck(self) -> None:
        """Look now whether those who are connected still may be: a credential was changed somewhere."""
        self.changes += 1
        self._is_recheck_due.set()

    def connections_of(self, senders: Collection[int], at_us: int) -> list[ConnectionStamp]:
        """The connections that these senders had then, as far as they are remembered."""
        open_now = [_stamp(self._by_handle[sender]) for sender in senders if sender in self._by_handle]
        return [*self._stamps.ended_of(senders, at_us), *(one for one in open_now if one.since_us <= at_us)]

    # ---- what connections call

    def opened(self, connection: MqttConnection) -> None:
        connection.connection_id = self._stamps.next_id()
        self._connections.add(connection)

    def admit(self, connection: MqttConnection, asked_at: int) -> str | None:
        """Make room for a connection that has said who it is; else why not: the door is full, or a later CONNECT was faster.

        `asked_at`: the `changes` there were when it was asked who it is. The look after a later one passed it over.
        """
        sender = connection.sender
        assert sender is not None
        older = self._by_handle.get(sender.handle)
        namesake = self._by_client_id.get(connection.client_id) if connection.client_id else None
        if older is None and len(self._by_handle) >= self._max_connections:
            return "too-many-connections"
        if older is not None and older.turn > connection.turn:
            return TAKEN_OVER
        before = None
        if older is not None:
            before = older.address, older.heard_s
            self._forget(older)
            older.end(TAKEN_OVER)
        if namesake is not None and namesake is not older and namesake.sender is not None:
            detail = f"it connects by the client id that {namesake.sender.name} is connected by"
            self.watch.noticed(sender, SecurityKind.CLIENT_ID, DOOR, connection.address, detail, least=0)
        self._sighted(connection, sender)
        self._by_handle[sender.handle] = connection
        connection.since_us = self.clock.now_us()
        if connection.client_id:
            self._by_client_id[connection.client_id] = connection
        self.counters.connections = len(self._by_handle)
        self.counters.connections_accepted += 1
        if older is None:
            self._presence.tell(sender, "online")
        self.watch.used(sender, DOOR, connection.address, before)
        if asked_at != self.changes:
            self._is_recheck_due.set()
        return None

    def _sighted(self, connection: MqttConnection, sender: Sender) -> None:
        connection.sighting_due_s = connection.heard_s + _SIGHTED_EVERY_S
        self.watch.sightings.note(sender, DOOR, connection.address, connection.client_id, over_tls=self._tls is not None)

    def _whereabouts(self, handle: int) -> tuple[str, float] | None:
        connection = self._by_handle.get(handle)
        return None if connection is None else (connection.address, connection.heard_s)

    def ended(self, connection: MqttConnection) -> None:
        self._connections.discard(connection)
        sender = connection.sender
        if sender is None:
            return
        self.counters.connections_ended[connection.why_ended] += 1
        self._stamps.ended(_stamp(connection, self.clock.now_us()))
        self._forget(connection)
        if connection.why_ended == GOODBYE:
            self._presence.tell(sender, "disconnected")
        elif connection.why_ended not in (TAKEN_OVER, CLOSING):
            self._presence.tell(sender, "offline", will_text(connection.will) or f"connection {connection.why_ended}")

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside a connection; the door waits for it when it closes."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("work for a connection met an unexpected error", exc_info=task.exception())

    def _forget(self, connection: MqttConnection) -> None:
        sender = connection.sender
        if sender is not None and self._by_handle.get(sender.handle) is connection:
            del self._by_handle[sender.handle]
        if self._by_client_id.get(connection.client_id) is connection:
            del self._by_client_id[connection.client_id]
        self.counters.connections = len(self._by_handle)

    async def _check_credentials(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RECHECK_S):
                    await self._is_recheck_due.wait()
            self._is_recheck_due.clear()
            connected = [c.sender for c in self._by_handle.values() if c.sender is not None]
            try:
                revoked = await self.identities.revoked(connected)
            except Unavailable:
                continue  # nothing is known against them
            except Exception:  # whatever it was: a door that looks no more would let the revoked stay for ever
                logger.exception("credentials could not be looked at again: tried again in %.0f s", _RECHECK_S)
                continue
            for sender in revoked:
                connection = self._by_handle.get(sender.handle)
                if connection is not None and connection.sender is sender:
                    about = {"device": sender.name, "connection": connection.connection_id}
                    logger.info("a connection is ended: its credential is revoked", extra=about)
                    connection.end(REVOKED)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_S)
            now_s = loop.time()
            for connection in list(self._connections):
                try:
                    has_read = self._look_after(connection, now_s)
                except Exception:  # whatever it was: who is held back would never be read on, nor anybody silent ended
                    logger.exception("a connection could not be looked after, and is ended")
                    connection.end(DEFECT)
                    continue
                if has_read:
                    await asyncio.sleep(0)  # it read on: who is read without waiting, a critical device, comes in between

    def _look_after(self, connection: MqttConnection, now_s: float) -> bool:
        if connection.sender is not None and connection.heard_s >= connection.sighting_due_s:
            self._sighted(connection, connection.sender)  # days may be one connection
        return connection.look_after(now_s)


def _stamp(connection: MqttConnection, until_us: int | None = None) -> ConnectionStamp:
    """What traces say of a connection that has said who it is."""
    assert connection.sender is not None
    name, peer = connection.connection_id, connection.peer
    return ConnectionStamp(connection.sender.handle, name, DOOR, peer, connection.since_us, until_us)
