"""Which signals of a shard are in use, stale, invalid, and which devices are silent, at one instant. Clauses 6.2c, 9.2c."""

from __future__ import annotations

from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from actors.kinds import FOREVER_US
from actors.roster import Roster
from domain.compiled import Bools, Int16s, Int32s, Int64s, OutBools, OutInt64s, UInt16s, compiled
from domain.quality import Validity, is_usable, validity_of

Rows: TypeAlias = NDArray[np.intp] | slice
_BUSY: Final = (int(Validity.CALIBRATING), int(Validity.ONGOING))
_EVERY_WHAT: Final = np.arange(256, dtype=np.uint16)  # validity, mode and origin
_NO_FAULT: Final = is_usable(_EVERY_WHAT) | np.isin(validity_of(_EVERY_WHAT), _BUSY)


class Signals:
    """The channels of a shard as they stand at one instant. Looked at when asked for: most questions are about few.

    Of each channel: `used` (it ever gave a usable, real value), `stale`, `invalid`, `lost`. Of each device: `silent`.
    """

    def __init__(self, roster: Roster, now_us: int, watching_since_us: int) -> None:
        self._roster = roster
        self._now_us = now_us
        self._watching_since_us = watching_since_us
        devices = roster.devices
        self._is_off = devices["is_offline"] | devices["is_isolated"]  # nothing is heard of it, or nothing is believed

    def of(self, rows: Rows) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """(used, stale, invalid) of some channels."""
        channels = self._roster.channels
        device, quality, used = (channels[name][rows] for name in ("device", "quality", "was_usable"))
        stale, invalid = np.empty(len(used), dtype=np.bool_), np.empty(len(used), dtype=np.bool_)
        _judge(
            device, used, quality, channels["arrival_us"][rows], channels["stale_after_us"][rows],
            self._is_off, _NO_FAULT, self._now_us, self._watching_since_us, stale, invalid,
        )  # fmt: skip
        return used, stale, invalid

    @cached_property
    def _all(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        return self.of(slice(None))

    @property
    def used(self) -> NDArray[np.bool_]:
        return self._all[0]

    @property
    def stale(self) -> NDArray[np.bool_]:
        return self._all[1]

    @cached_property
    def lost(self) -> NDArray[np.bool_]:
        _, stale, invalid = self._all
        return stale | invalid

    @cached_property
    def silent(self) -> NDArray[np.bool_]:
        """Devices of which nothing came for longer than the quickest of their channels in use may be silent."""
        devices, channels = self._roster.devices, self._roster.channels
        silent = np.empty(len(devices), dtype=np.bool_)
        _find_silent(
            devices["base"], devices["channels"], self._is_off, channels["was_usable"], channels["arrival_us"],
            channels["stale_after_us"], self._now_us, self._watching_since_us, FOREVER_US, silent,
        )  # fmt: skip
        return silent

    def per_device(self, flags: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many of each device's channels are flagged."""
        devices = self._roster.devices
        counts = np.empty(len(devices), dtype=np.int64)
        _count(devices["base"], devices["channels"], flags, counts)
        return counts


@compiled
def _judge(
    device: Int32s, used: Bools, quality: UInt16s, arrival_us: Int64s, stale_after_us: Int64s, is_offline: Bools,
    no_fault: Bools, now_us: int, watching_since_us: int, stale: OutBools, invalid: OutBools,
) -> None:  # fmt: skip
    for i in range(len(device)):
        silence_us = now_us - max(arrival_us[i], watching_since_us)
        stale[i] = used[i] and (is_offline[device[i]] or silence_us > stale_after_us[i])
        invalid[i] = used[i] and not stale[i] and not no_fault[quality[i] & len(no_fault) - 1]


@compiled
def _find_silent(
    base: Int32s, channels: Int16s, is_offline: Bools, used: Bools, arrival_us: Int64s, stale_after_us: Int64s,
    now_us: int, watching_since_us: int, forever_us: int, silent: OutBools,
) -> None:  # fmt: skip
    for device in range(len(base)):
        heard_us, patience_us, is_used = watching_since_us, forever_us, False
        for i in range(base[device], base[device] + channels[device]):
            heard_us = max(heard_us, arrival_us[i])
            if used[i]:
                is_used, patience_us = True, min(patience_us, stale_after_us[i])
        silent[device] = is_used and (is_offline[device] or now_us - heard_us > patience_us)


@compiled
def _count(base: Int32s, channels: Int16s, flags: Bools, counts: OutInt64s) -> None:
    for device in range(len(base)):
        counts[device] = 0
        for i in range(base[device], base[device] + channels[device]):
            counts[device] += flags[i]
