"""The platform's clock was an hour ahead and is set back: senders are heard all the same, and replays are not."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from domain.errors import RejectedInput
from domain.readings import ReadingBatch
from runtime.intake import StreamIntake
from runtime.intake_lanes import IntakeLimits
from runtime.replay_keeping import catch_up, known_now, load, read_on, save
from runtime.replays import Replays
from tests.doors import CUFF, MONITOR, DictIdentities, MemoryBus, clock
from tests.numbering import NEW, REPLAYED, S

HOUR_S = 3_600.0
BOOT = 2**32


class Platform:
    """Its clock, a door, and a stream; the door may be ended and begun again with its file, or killed."""

    def __init__(self, file: Path) -> None:
        self.clock, self.bus, self._file = clock(), MemoryBus(), file
        self._intake = self._opened(Replays(-math.inf))
        self.save()

    def _opened(self, replays: Replays) -> StreamIntake:
        self.replays = replays
        limits = IntakeLimits(gather_ms=0)
        return StreamIntake(self.bus, DictIdentities(), self.clock, source=1, limits=limits, replays=replays)

    def save(self) -> None:
        save(self._file, known_now(self.replays))

    async def starts_again(self, *, saves: bool) -> None:
        """Without saving, the stream has to tell all that came since."""
        if saves:
            self.save()
        await self.close()
        self._intake = self._opened(load(self._file, -math.inf))
        await catch_up(self.replays, self.bus)

    async def opens_before_it_has_read(self) -> None:
        await self.close()
        self._intake = self._opened(load(self._file, -math.inf))
        _, left = await catch_up(self.replays, self.bus, within_s=-1.0)
        assert left
        assert self._intake.gate is not None
        self.reading = asyncio.create_task(read_on(self.replays, self.bus, left, self._intake.gate))

    async def says(self, *numbers: int, time_us: int | None = None, value: float = 1.0) -> str:
        """A second later. Without a time the readings get that of their arrival."""
        arrival_us = self.clock.advance(1)
        at_us = arrival_us if time_us is None else time_us
        readings = ReadingBatch.of(handle=7, metric=1, time_us=at_us, value=value, source=7, sequence=numbers)
        try:
            await self._intake.submit(MONITOR, readings, arrival_us)
        except RejectedInput as refused:
            return refused.reason
        return NEW

    async def hears(self, numbers: Iterable[int], *, states_times: bool, value: float = 1.0) -> set[str]:
        """What a device is answered whose clock is the platform's."""
        said = set()
        for number in numbers:
            said.add(await self.says(number, time_us=self.clock.now_us() + S - 1 if states_times else None, value=value))
        return said

    async def hears_another(self) -> None:
        now_us = self.clock.now_us()
        readings = ReadingBatch.of(handle=8, metric=1, time_us=now_us, value=1.0, source=8, sequence=[1])
        await self._intake.submit(CUFF, readings, now_us)

    async def close(self) -> None:
        await self._intake.close()


@pytest.fixture
async def platform(tmp_path: Path):
    platform = Platform(tmp_path / "numbers.npz")
    yield platform
    await platform.close()


async def sets_back(platform: Platform, starts_again: str) -> None:
    platform.clock.advance(-HOUR_S)
    if starts_again:
        await platform.starts_again(saves=starts_again == "with a file")


OVER_STARTS = pytest.mark.parametrize("starts_again", ["", "with a file", "killed"])


@pytest.mark.clause("5.4a", "9.4")
@OVER_STARTS
@pytest.mark.parametrize("states_times", [False, True])
async def test_a_monitor_that_is_switched_off_and_on_after_it_is_heard(
    platform: Platform, states_times: bool, starts_again: str
) -> None:
    platform.clock.advance(HOUR_S)
    assert await platform.says(*range(1, 4_801)) == NEW
    assert await platform.hears(range(4_801, 5_001), states_times=states_times) == {NEW}
    await sets_back(platform, starts_again)
    assert await platform.says(5_001, time_us=platform.clock.now_us() if states_times else None) == NEW
    platform.clock.advance(20)
    assert await platform.hears(range(1, 20), states_times=states_times, value=2.0) == {NEW}
    assert platform.replays.highest[7] == 19
    captured_us = platform.clock.now_us() - 120 * S if states_times else None
    assert await platform.says(4_820, time_us=captured_us) == REPLAYED


@pytest.mark.clause("5.4a", "9.4")
@OVER_STARTS
@pytest.mark.parametrize("states_times", [False, True])
async def test_so_is_one_that_was_switched_off_and_on_while_it_was_ahead(
    platform: Platform, states_times: bool, starts_again: str
) -> None:
    assert await platform.says(*range(1, 4_801)) == NEW
    assert await platform.hears(range(4_801, 5_001), states_times=states_times) == {NEW}
    platform.clock.advance(HOUR_S)
    assert await platform.hears(range(5_001, 5_150), states_times=states_times) == {NEW}
    platform.clock.advance(20)
    assert await platform.hears(range(1, 200), states_times=states_times, value=2.0) == {NEW}
    await sets_back(platform, starts_again)
    assert await platform.hears(range(200, 340), states_times=states_times, value=2.0) == {NEW}
    assert platform.replays.highest[7] == 339
    assert {await platform.says(number, value=2.0) for number in (3, 190)} == {REPLAYED}  # of before the set-back
    assert {await platform.says(number) for number in (3, 4_900, 5_149)} == {REPLAYED}


@pytest.mark.clause("5.4a", "9.4")
@OVER_STARTS
async def test_a_higher_boot_goes_on_and_what_was_before_is_a_replay(platform: Platform, starts_again: str) -> None:
    platform.clock.advance(HOUR_S)
    assert await platform.hears(range(BOOT + 1, BOOT + 160), states_times=False) == {NEW}
    await sets_back(platform, starts_again)
    assert await platform.hears(range(2 * BOOT + 1, 2 * BOOT + 160), states_times=False) == {NEW}
    platform.clock.advance(20)
    assert {await platform.says(BOOT + number) for number in (1, 100, 159)} == {REPLAYED}


@pytest.mark.clause("9.4")
async def test_while_a_monitor_speaks_nobody_begins_again_in_its_place_after_it_either(platform: Platform) -> None:
    platform.clock.advance(HOUR_S)
    assert await platform.hears(range(1, 200), states_times=False) == {NEW}
    platform.clock.advance(-HOUR_S)
    assert await platform.says(1) == REPLAYED  # at once
    assert await platform.hears(range(200, 210), states_times=False) == {NEW}
    assert await platform.says(2) == REPLAYED


@pytest.mark.clause("5.4a", "5.4c")
async def test_what_was_said_again_while_it_was_ahead_keeps_nobody_from_beginning_again(platform: Platform) -> None:
    assert await platform.hears(range(1, 61), states_times=False) == {NEW}
    platform.clock.advance(HOUR_S)
    assert await platform.says(1) == NEW  # a repetition, which is answered with what it was answered before
    stored = len(platform.bus.messages)
    platform.clock.advance(-HOUR_S)
    assert await platform.hears(range(1, 12), states_times=False) == {NEW}
    assert len(platform.bus.messages) >= stored + 3


@pytest.mark.clause("5.4a")
async def test_what_was_on_its_way_when_it_was_set_back_refuses_nobody(platform: Platform) -> None:
    platform.clock.advance(HOUR_S)
    assert await platform.hears(range(4_990, 5_001), states_times=False) == {NEW}
    platform.bus.hold()
    late = asyncio.create_task(platform.says(5_001))
    await asyncio.sleep(0)
    platform.clock.advance(-HOUR_S)
    judged = asyncio.create_task(platform.hears_another())
    platform.bus.release()
    assert await late == NEW
    await judged
    platform.clock.advance(20)
    assert await platform.hears(range(1, 5), states_times=False, value=2.0) == {NEW}


@pytest.mark.clause("5.4a")
async def test_what_is_read_of_that_hour_beside_open_doors_refuses_nobody(platform: Platform) -> None:
    assert await platform.hears(range(4_900, 5_001), states_times=False) == {NEW}
    platform.clock.advance(HOUR_S)
    assert await platform.hears(range(1, 100), states_times=False, value=2.0) == {NEW}
    platform.clock.advance(-HOUR_S)
    await platform.opens_before_it_has_read()
    await platform.hears_another()  # doors are open
    await platform.reading
    assert np.max(platform.replays.newest_us) <= platform.clock.now_us()
    assert await platform.hears(range(100, 120), states_times=False, value=2.0) == {NEW}
    platform.clock.advance(20)
    assert await platform.hears(range(1, 5), states_times=False, value=3.0) == {NEW}


@pytest.mark.clause("9.4")
async def test_a_capture_of_that_hour_that_states_its_times_passes_until_the_clock_is_there_again(platform: Platform) -> None:
    """docs/decisions/0034 says so."""
    platform.clock.advance(HOUR_S)
    captured_us = platform.clock.now_us() + 2 * S - 1  # of number 2
    assert await platform.hears(range(1, 300), states_times=True) == {NEW}
    platform.clock.advance(-HOUR_S)
    assert await platform.hears(range(300, 500), states_times=True) == {NEW}
    platform.clock.advance(HOUR_S)
    assert await platform.hears(range(500, 502), states_times=True) == {NEW}
    assert await platform.says(2, time_us=captured_us) == REPLAYED
    platform.clock.advance(-HOUR_S)
    assert await platform.says(2, time_us=captured_us) == NEW
