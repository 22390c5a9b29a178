"""Critical devices of a benchmark: monitors with connections of their own whose alarms are awaited at a live stream.

Each says in turn a pressure beyond its limit, one within, that its lead is off, and that it is on again: every second one
begins an alarm. Its latency runs from the write into the sender's socket, at a time fixed beforehand, to the event on the
stream of Server-Sent Events, as a screen gets it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from domain.alarms import AlarmEvent, Phase
from domain.errors import Unavailable
from domain.instants import parse_rfc3339
from gateways.device_client import DeviceClient
from gateways.formats import BY_NAME
from scenarios.rest import Rest
from scenarios.target import Target

PARTS: Final = ("to the door", "from there to the alarm stored", "from there to the screen")  # of a latency
_SETTLE_S: Final = 15.0
_READINGS, _EVENTS = BY_NAME["readings"].topic, "v1/devices/me/events"


@dataclass
class AlarmProbes:
    """`connect`, then `watch` in a task, then `run` as often as is measured."""

    target: Target
    devices: Sequence[tuple[str, int]]  # token, handle
    every_s: float = 1.0
    _clients: list[DeviceClient] = field(default_factory=list)
    _begun: dict[tuple[int, int], float] = field(default_factory=dict)  # (handle, event time in ms) -> when sent
    _took_s: list[tuple[float, float, float, float]] = field(default_factory=list)
    _acknowledged_s: list[float] = field(default_factory=list)
    _turns: int = 0

    async def connect(self) -> None:
        host, port, tls = self.target.mqtt_host, self.target.mqtt_port, self.target.doors_tls()
        self._clients = [DeviceClient(host, port, token, tls=tls) for token, _ in self.devices]
        await asyncio.gather(*(client.connect() for client in self._clients))

    async def close(self) -> None:
        await asyncio.gather(*(client.close() for client in self._clients))

    async def watch(self, hospitals: Sequence[str]) -> None:
        """Listen until cancelled."""
        async with Rest(self.target) as rest:
            async for name, data in rest.live_alarms(hospitals):
                if name == "alarm":
                    self._seen(msgspec.convert(data["event"], AlarmEvent), parse_rfc3339(data["times"]["stored"]) / 1e6)

    def _seen(self, event: AlarmEvent, stored_s: float) -> None:
        if event.phase is Phase.START:
            began_s = self._begun.pop((event.subject.handle, event.event_us // 1000), None)
            if began_s is not None:
                arrived_s, seen_s = event.arrival_us / 1e6, time.time()
                self._took_s.append((seen_s - began_s, arrived_s - began_s, stored_s - arrived_s, seen_s - stored_s))

    async def run(self, seconds: float) -> ProbeResult:
        """Send for that long, wait until every alarm was seen (or for a while), and say how long they took."""
        self._begun.clear()
        self._took_s, self._acknowledged_s = [], []
        turns = max(2, 2 * round(seconds / self.every_s / 2))  # whole pairs: each condition that begins ends
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        await asyncio.gather(*(self._speak(number, start_s, turns) for number in range(len(self.devices))))
        self._turns += turns
        until_s = loop.time() + _SETTLE_S
        while self._begun and loop.time() < until_s:  # noqa: ASYNC110 (many, and once)
            await asyncio.sleep(0.05)
        return ProbeResult(np.array(self._took_s).reshape(-1, 4), np.array(self._acknowledged_s), len(self._begun))

    async def _speak(self, number: int, start_s: float, turns: int) -> None:
        loop = asyncio.get_running_loop()
        offset_s = self.every_s * number / len(self.devices)
        for turn in range(turns):
            await asyncio.sleep(max(0.0, start_s + offset_s + turn * self.every_s - loop.time()))
            self._say(number, self._turns + turn)

    def _say(self, number: int, turn: int) -> None:
        now_ms, client = int(time.time() * 1000), self._clients[number]
        match turn % 4:
            case 0 | 1:
                reading = {"metric": "nibp_sys", "value": 120 if turn % 2 else 210, "time": now_ms, "seq": turn + 1}
                answer = client.start(_READINGS, msgspec.json.encode(reading))
            case end:
                event = {"event": "lead_on" if end == 3 else "lead_off", "at": now_ms}
                answer = client.start(_EVENTS, msgspec.json.encode(event))
        began_s = time.time()
        if not turn % 2:
            self._begun[self.devices[number][1], now_ms] = began_s
        answer.add_done_callback(lambda done: self._answered(done, began_s))

    def _answered(self, answer: asyncio.Future[None], began_s: float) -> None:
        if answer.cancelled() or isinstance(answer.exception(), Unavailable):
            return
        self._acknowledged_s.append(time.time() - began_s)


@dataclass(frozen=True)
class ProbeResult:
    """Seconds from the sender to the screen, and to the acknowledgement; `unseen`: alarms that did not come in time.

    `seen_s`: whole, then its parts: until the door stamped it, until the alarm was stored, until it was seen.
    """

    seen_s: np.ndarray
    acknowledged_s: np.ndarray
    unseen: int

    def seen_ms(self, quantile: float, part: int = 0) -> float:
        return 1000 * float(np.quantile(self.seen_s[:, part], quantile)) if len(self.seen_s) else float("nan")

    def acknowledged_ms(self, quantile: float) -> float:
        return 1000 * float(np.quantile(self.acknowledged_s, quantile)) if len(self.acknowledged_s) else float("nan")
