"""Reading -> state, as a client sees it: ask for a device's state until it shows the reading that was due.

The figure includes the question itself and is an upper bound: asking goes on every 20 ms. A reading that does not
show within ten seconds counts as ten seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from domain.errors import VitalgridError
from domain.instants import parse_rfc3339
from domain.metrics import BY_ID
from scenarios.generator_orders import ProbeTarget
from scenarios.measures import Latency
from scenarios.rest import Rest

_EVERY_S: Final = 0.02
_GIVE_UP_S: Final = 10.0
_MAX_AT_ONCE: Final = 8


class StateProbes:
    """Takes targets as the generator names them; asks at most `per_s` of them a second."""

    def __init__(self, rest: Rest, device_of: Mapping[int, tuple[str, str]], per_s: float, now_us: Callable[[], int]) -> None:
        self._rest = rest
        self._device_of = device_of
        self._per_s = per_s
        self._now_us = now_us
        self.latency = Latency("state", "probes")
        self._asking: set[asyncio.Task[None]] = set()
        self.last_failure = ""

    def take(self, targets: Sequence[ProbeTarget], start_us: int, warmup_s: float) -> None:
        """Start looking for some of `targets`; call once a second."""
        room = max(0, min(round(self._per_s), _MAX_AT_ONCE - len(self._asking)))
        for target in [t for t in targets if t.handle in self._device_of][:room]:
            task = asyncio.create_task(self._look(target, start_us, warmup_s))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def finish(self) -> None:
        if self._asking:
            await asyncio.wait(self._asking, timeout=_GIVE_UP_S)

    async def _look(self, target: ProbeTarget, start_us: int, warmup_s: float) -> None:
        hospital_id, device_id = self._device_of[target.handle]
        code = BY_ID[target.metric].code
        at_s = (target.due_us - start_us) / 1e6
        await asyncio.sleep(max(0.0, (target.due_us - self._now_us()) / 1e6))
        while True:
            waited_us = self._now_us() - target.due_us
            try:
                state = await self._rest.device_state(hospital_id, device_id)
            except VitalgridError as error:
                self.last_failure = str(error)
                state = {}
            if newest_us(state, code) >= target.time_us or waited_us > _GIVE_UP_S * 1e6:
                break
            await asyncio.sleep(_EVERY_S)
        if waited_us > _GIVE_UP_S * 1e6 and not state:
            self.latency.errors += 1
            return
        self.latency.record(self._now_us() - target.due_us, at_s=at_s, warmup=at_s < warmup_s)


def newest_us(state: Mapping[str, Any], metric: str) -> int:
    """The newest event time that a device's state shows for a metric; 0 when it shows none."""
    newest = 0
    for channel in state.get("channels", ()):
        time = channel.get("time_us") or channel.get("time")
        if channel.get("metric") == metric and time:
            newest = max(newest, time if isinstance(time, int) else parse_rfc3339(time))
    return newest
