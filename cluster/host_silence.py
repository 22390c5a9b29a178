"""What a host's silence means. Heartbeats come over the bus; one that misses is asked for through Ray, which needs no bus.

A process that has ended is lost at once: Ray fails the call that waits for its end, and nothing here is waited for.
After a silence of `timeout_s` a host is looked into, and then

- its process is gone or stopped: lost.
- it answers, and what it holds goes on: only its heartbeats miss, and the answer is taken for one. It may take all its
  heartbeats so.
- it answers, what it holds stands still, and the bus does not answer us either: the bus is away, for all hosts. Others
  could do no more, so it is waited for as long as that lasts; `vitalgrid up` brings nats-server back.
- it answers, what it holds stands still, and the bus answers us: it is cut from the bus. It has `_CUT_S` to reconnect,
  more than it takes when the bus has just come back; then it is lost, for without the stream it raises no alarms, and
  others can. That it lives does no harm: its epoch is fenced off, and it is ended.
- it does not answer, and uses the processor or stands in line for it or for the disk: a long piece of work or a machine
  that is overloaded. Another host would do the same work anew, beside the start of a process; so it is waited for, up to
  `_PATIENCE` times `timeout_s`.
- it does not answer and wants nothing: it hangs, and is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from cluster.host_handle import WatchedHost
from domain.messages import HostHeartbeat
from runtime.bus import Bus
from runtime.process_look import ProcessLook, wants_the_machine

logger = logging.getLogger(__name__)

_PULSE_S: Final = 1.0  # an answer through Ray takes a millisecond
_CUT_S: Final = 3.0
_PATIENCE: Final = 6
_STUCK_LOOP_S: Final = 60.0  # a loop that has work and has not moved for so long is stuck


class HostSilence:
    """Says of hosts whether they are lost; see module. `timeout_s`: silence after which one is asked."""

    def __init__(self, bus: Bus, timeout_s: float) -> None:
        self._bus = bus
        self._timeout_s = timeout_s

    def why_lost(self, host: WatchedHost) -> str:
        """Why a host is given up, for people; empty as long as it is not. Never waits: what it asks is known next time."""
        if host.watch.done() or not host.handle.is_alive():
            return "its process has ended"
        if _now_s() - host.seen_s <= self._timeout_s:
            if host.inquiry is not None and host.inquiry.done():
                host.inquiry = None  # it was heard meanwhile: what was found of a silence that is over says nothing
            return _stuck(host.heartbeat)
        if host.inquiry is None:
            host.inquiry = asyncio.create_task(self._inquire(host), name=f"ask {host.handle.name}")
            return ""
        if not host.inquiry.done():
            return ""
        done, host.inquiry = host.inquiry, None
        return done.result()

    async def _inquire(self, host: WatchedHost) -> str:
        """Look into a silence once; why the host is lost, or empty."""
        before, began_s = host.handle.look(), _now_s()
        if before is None:
            return "its process has ended"
        if before.is_stopped:
            return "its process is stopped"
        pulse = await _pulse_of(host)
        return self._why_mute(host, before, began_s) if pulse is None else await self._why_silent(host, pulse)

    async def _why_silent(self, host: WatchedHost, pulse: HostHeartbeat) -> str:
        """Of one that answers."""
        if _goes_on(host.heartbeat, pulse):
            host.hear(pulse, _now_s())
            return ""
        if not await self._bus.is_answering(_PULSE_S):
            host.cut_since_s = None
            return ""
        if host.cut_since_s is None:
            host.cut_since_s = _now_s()
        return "its bus connection is cut" if _now_s() - host.cut_since_s > _CUT_S else ""

    def _why_mute(self, host: WatchedHost, before: ProcessLook, began_s: float) -> str:
        """Of one that does not answer."""
        after, now_s = host.handle.look(), _now_s()
        if after is None or after.is_stopped:
            return "its process is stopped" if after else "its process has ended"
        silent_s = now_s - host.seen_s
        if not wants_the_machine(before, after, now_s - began_s):
            return "it hangs: it does not answer, and wants no processor"
        if silent_s > _PATIENCE * self._timeout_s:
            return f"it has not answered for {silent_s:.0f} s, though it wants the processor"
        about = {"host": host.handle.name, "silent_s": round(silent_s, 1)}
        logger.warning("a host is silent and wants the processor: it is waited for", extra=about)
        return ""


async def _pulse_of(host: WatchedHost) -> HostHeartbeat | None:
    with contextlib.suppress(Exception):  # Ray fails in many ways; each of them is no answer
        async with asyncio.timeout(_PULSE_S):
            return await host.handle.pulse()
    return None


def _goes_on(before: HostHeartbeat | None, now: HostHeartbeat) -> bool:
    """Whether what a host holds has moved since; or stands still for a reason of its own, a lake without room."""
    if before is None or now.full_since_us:
        return True
    applied = {held.shard: held.applied for held in before.shards}
    return any(held.applied > applied.get(held.shard, -1) for held in now.shards)


def _stuck(beat: HostHeartbeat | None) -> str:
    """A loop that has work and does not move, though the heart beats."""
    if beat is None or beat.at_us - beat.loop_us <= _STUCK_LOOP_S * 1e6 or not any(held.lag for held in beat.shards):
        return ""
    return f"its loop has not moved for more than {_STUCK_LOOP_S:.0f} s"


def _now_s() -> float:
    return asyncio.get_running_loop().time()
