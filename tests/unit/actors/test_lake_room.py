"""A host beside a lake that takes no rows: it stops in time, says so once, and goes on once a commit went through."""

from __future__ import annotations

import asyncio
import logging

import pytest

from actors.lake_room import LakeRoom
from runtime.clock import ManualClock


@pytest.fixture
def room() -> LakeRoom:
    return LakeRoom("host-1", ManualClock(), 100)


async def test_while_there_is_room_nobody_waits(room: LakeRoom) -> None:
    async with asyncio.timeout(10):
        await room.wait(lambda: 99, lambda: pytest.fail("waited with room left"))


async def test_without_room_turns_wait_until_a_commit_went_through_and_it_is_said_once(
    room: LakeRoom, caplog: pytest.LogCaptureFixture
) -> None:
    kept, waited = [100], asyncio.Event()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            room.failed(OSError(28, "No space left on device"))
        waiting = asyncio.create_task(room.wait(lambda: kept[0], waited.set))
        await waited.wait()
        assert room.full_since_us
        assert not waiting.done()
        kept[0] = 0
        room.committed()
        async with asyncio.timeout(10):
            await waiting
        room.worked()
    assert room.full_since_us == 0
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR", "WARNING", "WARNING"]


async def test_rows_on_their_way_count(room: LakeRoom) -> None:
    room.writing, waited = 100, asyncio.Event()
    waiting = asyncio.create_task(room.wait(lambda: 0, waited.set))
    await waited.wait()
    assert room.full_since_us == 0, "a lake that is merely slow is none that takes no rows"
    room.writing = 0
    room.committed()
    async with asyncio.timeout(10):
        await waiting
