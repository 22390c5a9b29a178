"""The generator's connections to the MQTT door: one client a sender, counted, cut and restored as faults demand."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateways.device_client import DeviceClient

_CONNECT_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends: a gateway with frames, or a device by itself with JSON. `source` is its handle."""

    token: str
    source: int
    hospital_id: str
    as_json: bool = False


class Connections:
    """All clients of a run. `errors` counts what the doors told them, by reason."""

    def __init__(self, host: str, port: int, senders: Sequence[Sender], tls: ssl.SSLContext | None = None) -> None:
        self.senders = senders
        self.errors: Counter[str] = Counter()
        self._clients = [
            DeviceClient(host, port, sender.token, client_id=f"gen-{sender.source}", max_in_flight=512,
                         tls=tls, on_error=self._count)
            for sender in senders
        ]  # fmt: skip

    async def open_all(self) -> None:
        """Connect everybody, a hundred at a time. Raises what the first one that cannot connect raises."""
        await self._each(range(len(self._clients)), _CONNECT_AT_ONCE)

    async def close_all(self) -> None:
        await asyncio.gather(*(client.close() for client in self._clients), return_exceptions=True)

    async def cut(self, hospitals: Sequence[str]) -> None:
        """Drop the connections of these hospitals at once, as a power failure does."""
        await asyncio.gather(*(self._clients[i].disconnect() for i in self._of(hospitals)), return_exceptions=True)

    async def storm(self, hospitals: Sequence[str]) -> None:
        """Everybody of these hospitals connects again, all at the same moment."""
        await self._each(self._of(hospitals), len(self._clients))

    def send_frame(self, sender: int, frame: bytes) -> asyncio.Future[Any]:
        """Put a frame on the wire; the future is done when it is acknowledged."""
        return self._clients[sender].start_frame(frame)

    def send_json(self, sender: int, readings: list[dict[str, Any]]) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self._clients[sender].publish_readings(readings))

    @property
    def connected(self) -> int:
        return sum(client.is_connected for client in self._clients)

    @property
    def reconnects(self) -> int:
        return sum(client.reconnects for client in self._clients)

    def _of(self, hospitals: Sequence[str]) -> list[int]:
        wanted = set(hospitals)
        return [i for i, sender in enumerate(self.senders) if sender.hospital_id in wanted]

    async def _each(self, numbers: Sequence[int], at_once: int) -> None:
        turn = asyncio.Semaphore(at_once)

        async def one(number: int) -> None:
            async with turn:
                await self._clients[number].connect()

        await asyncio.gather(*(one(number) for number in numbers))

    def _count(self, error: dict[str, str]) -> None:
        self.errors[error.get("reason", "unknown")] += 1
