"""The schedule: messages made ready a little ahead of their due time, in a thread, while the loop sends.

Encoding beside sending keeps the send path to "take the bytes, put them on the wire". The look-ahead is bounded, so
a long run needs no more memory than a short one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from domain.frames import encode_frame
from domain.instants import to_rfc3339
from domain.metrics import BY_ID
from domain.quality import Mark, Mode, Validity
from domain.readings import ReadingBatch
from scenarios.ledger import Keys, keys_of_readings
from sim.emission import Emission

LOOK_AHEAD_S: Final = 5.0
_MAX_PREPARED: Final = 20_000


@dataclass(frozen=True, slots=True)
class Message:
    """One message ready to go: a frame, or a list of readings for a client that speaks JSON."""

    due_s: float
    sender: int
    body: bytes | list[dict[str, Any]]
    keys: Keys
    times_us: tuple[int, int]
    probe: tuple[int, int, int]  # handle, metric and event time of one of its readings
    backfilled: int
    retransmission: bool


def prepare(emission: Emission, sender: int, *, as_json: bool, base: int = 0) -> Message | None:
    """Encode an emission for the wire, its sequences counted from `base` on; None for one without readings."""
    readings = emission.readings.with_columns(sequence=emission.readings.sequence + np.uint64(base))
    if not len(readings):
        return None
    source = int(readings.source[0])
    body: bytes | list[dict[str, Any]]
    if as_json:
        body = readings_as_json(readings)
    else:
        body = encode_frame(readings, source=source, sequence=int(readings.sequence[0]), arrival_us=0)
    last = int(readings.time_us.argmax())
    return Message(
        emission.due_s, sender, body, keys_of_readings(readings, base),
        (int(readings.time_us.min()), int(readings.time_us.max())),
        (int(readings.handle[last]), int(readings.metric[last]), int(readings.time_us[last])),
        int(np.count_nonzero(readings.quality & np.uint16(Mark.BACKFILL))), emission.retransmission,
    )  # fmt: skip


def readings_as_json(readings: ReadingBatch) -> list[dict[str, Any]]:
    """Native JSON readings, as a device would write them."""
    rows = []
    for i in range(len(readings)):
        row: dict[str, Any] = {
            "metric": BY_ID[int(readings.metric[i])].code,
            "value": float(readings.value[i]),
            "time": to_rfc3339(int(readings.time_us[i])),
            "instance": int(readings.instance[i]),
            "seq": int(readings.sequence[i]),
        }
        quality = int(readings.quality[i])
        if quality & 0xF:
            row["validity"] = Validity(quality & 0xF).name.lower().replace("_", "-")
        if quality >> 4 & 0x3:
            row["mode"] = Mode(quality >> 4 & 0x3).name.lower()
        rows.append(row)
    return rows


class Schedule:
    """Messages in order of due time. `next_due_s` and `take` are for the sending loop; `stop` ends the thread."""

    def __init__(self, messages: Callable[[], Iterator[Message]], elapsed_s: Callable[[], float]) -> None:
        self._messages = messages
        self._elapsed_s = elapsed_s
        self._prepared: deque[Message] = deque()
        self._stop = threading.Event()
        self._ended = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._fill, name="schedule", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def next_due_s(self) -> float | None:
        """When the next prepared message is due; None while none is ready."""
        return self._prepared[0].due_s if self._prepared else None

    def take(self) -> Message:
        return self._prepared.popleft()

    def due_within(self, from_s: float, until_s: float, count: int) -> list[Message]:
        """Up to `count` prepared messages due in this stretch, spread over it; called by the loop that takes."""
        found = []
        for number in range(len(self._prepared)):  # the other thread only appends, so these indices stay
            message = self._prepared[number]
            if message.due_s > until_s:
                break
            if message.due_s >= from_s:
                found.append(message)
        step = max(1, len(found) // max(count, 1))
        return found[::step][:count]

    @property
    def is_over(self) -> bool:
        """Nothing is left and nothing will come."""
        return self._ended.is_set() and not self._prepared

    def _fill(self) -> None:
        try:
            for message in self._messages():
                while self._is_far_ahead(message.due_s) and not self._stop.is_set():
                    time.sleep(0.02)
                if self._stop.is_set():
                    return
                self._prepared.append(message)
        except BaseException as error:  # noqa: BLE001 (the loop that sends must learn of it, whatever it is)
            self.failure = error
        finally:
            self._ended.set()

    def _is_far_ahead(self, due_s: float) -> bool:
        return due_s > self._elapsed_s() + LOOK_AHEAD_S or len(self._prepared) > _MAX_PREPARED
