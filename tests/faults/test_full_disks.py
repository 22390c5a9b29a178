"""Disks run full, or cannot be written, under load: nothing acknowledged is lost, what cannot be kept is refused with the
reason, all else goes on, and once there is room everything does, with nobody's help.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.faults.checker import is_told
from tests.faults.fault_run import FaultBench, Pace, RunResult
from tests.faults.observing import positions, told_alarms
from tests.faults.schedule import Plan
from tests.faults.senders import Load
from tests.faults.small_disks import SmallDisk, why_none
from tests.faults.stand import Stand
from tests.waiting import eventually, until

pytestmark = [
    pytest.mark.integration, pytest.mark.slow, pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(why_none() is not None, reason=str(why_none())),
]  # fmt: skip

RESERVE_BYTES = 8 * 2**20
MOST_ROWS = 1_200
PLACES = ("nats", "lake", "snapshots", "database")
NO_FAULTS = Plan(0, (), ())


class Small(FaultBench):
    """A platform whose places are small disks of their own."""

    def __init__(self, folder: Path) -> None:
        self.disks = {name: SmallDisk(folder / "var" / name, 96) for name in PLACES}
        stand = Stand(
            folder / "var", proxied=False, STORAGE__RESERVE_BYTES=str(RESERVE_BYTES),
            HOSTS__MAX_UNCOMMITTED_ROWS=str(MOST_ROWS),
            DATABASE_URL=f"sqlite:///{folder / 'var' / 'database' / 'vitalgrid.db'}",
        )  # fmt: skip
        super().__init__(stand, Pace(told_within_s=20.0, settle_s=45.0))

    def levels(self) -> dict[str, str]:
        with self.stand.running.http() as http:
            return {place["name"]: place["level"] for place in http.get("/health").json()["storage"]}

    async def reaches(self, place: str, level: str) -> None:
        async def is_there() -> bool:
            return (await asyncio.to_thread(self.levels)).get(place) == level

        await eventually(is_there, 20)

    def said(self, words: str, log: str = "up.log") -> int:
        """How often a log says something."""
        return self.stand.running.log(log).count(words)

    def readings_status(self, load: Load) -> httpx.Response:
        """What the HTTP door answers to a reading."""
        connection = self.stand.running.connection
        who = load.devices[0].who
        return httpx.post(
            f"http://127.0.0.1:{connection.http_port}/v1/readings", json={"metric": "heart_rate", "value": 70.0},
            headers={"Authorization": f"Bearer {who.token}"}, timeout=30, trust_env=False,
        )  # fmt: skip

    async def shows_live(self, since_us: int) -> None:
        async with httpx.AsyncClient(timeout=5.0, trust_env=False, headers={"X-Reason": "test"}) as http:
            await eventually(lambda: self.is_shown(http, since_us), 20)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Small]:
    bench = Small(tmp_path_factory.mktemp("disks"))
    try:
        await bench.start()
        yield bench
    finally:
        await bench.stand.close()
        for disk in bench.disks.values():
            disk.unmount()


async def through(small: Small, story: Callable[[Load, RunResult], Awaitable[None]]) -> None:
    try:
        result = await small.play_story(NO_FAULTS, story)
    finally:
        for disk in small.disks.values():
            disk.make_room()
    assert result.holds, str(result)
    assert result.verdict is not None
    assert result.verdict.ledger.acknowledged > 500


async def test_below_the_reserve_doors_refuse_with_the_reason_and_take_again_when_there_is_room(small: Small) -> None:
    disk = small.disks["nats"]

    async def story(load: Load, _: RunResult) -> None:
        await until(lambda: all(sender.last_acknowledged_us for sender in load.senders), 20)
        disk.fill(RESERVE_BYTES // 2)
        await small.reaches("stream", "low")
        answer = await asyncio.to_thread(small.readings_status, load)
        assert (answer.status_code, answer.json()["code"]) == (507, "storage-full"), answer.text
        assert str(disk.folder) in answer.json()["detail"]
        assert int(answer.headers["Retry-After"]) > 0
        await until(lambda: any(told["reason"] == "storage-full" for sender in load.senders for told in sender.told), 20)
        before = load.gateways[0].last_acknowledged_us
        await asyncio.sleep(2.0)
        assert load.gateways[0].last_acknowledged_us == before, "a door took readings without room for them"
        disk.make_room()
        await small.recovered(load, small.clock.now_us())

    await through(small, story)
    assert small.said("a disk runs full or fails: the disk of the stream") == 1
    assert small.said("there is room on disk again: the disk of the stream") == 1


async def test_a_stream_whose_disk_was_full_to_the_last_byte_stores_again_without_a_restart_by_hand(small: Small) -> None:
    """nats-server does not come back by itself."""
    disk = small.disks["nats"]
    server = small.stand.pids("nats-server")

    async def story(load: Load, _: RunResult) -> None:
        await until(lambda: all(sender.last_acknowledged_us for sender in load.senders), 20)
        disk.fill()
        await until(lambda: "no space left" in (disk.folder / "nats-server.log").read_text(errors="replace")[-4000:], 20)
        await small.reaches("stream", "full")
        await asyncio.sleep(10.0)
        assert small.stand.pids("nats-server") == server, "restarted while there was no room"
        disk.make_room()
        await small.recovered(load, small.clock.now_us())

    await through(small, story)
    assert small.stand.pids("nats-server") != server


async def test_without_room_in_the_lake_vitals_and_alarms_go_on_until_memory_is_full_and_the_stream_holds_the_rest(
    small: Small,
) -> None:
    disk = small.disks["lake"]

    async def story(load: Load, _: RunResult) -> None:
        since = await positions(small.stand)
        await until(lambda: all(sender.last_acknowledged_us for sender in load.senders), 20)
        disk.fill()
        await small.reaches("lake", "full")
        full_us = small.clock.now_us()
        load.cross(1)
        await small.shows_live(full_us)

        async def is_alarm_told() -> bool:
            return is_told(load.history.crossings[0], await told_alarms(small.stand, since), 2**62)

        await eventually(is_alarm_told, 20)
        await until(lambda: small.said("the stream is taken no further", "hosts.log"), 30)

        async def is_shown_to_operators() -> bool:
            with small.stand.running.http() as http:
                ready = http.get("/ready")
            return ready.status_code == 503 and "takes no more of the stream" in ready.text

        await eventually(is_shown_to_operators, 20)
        held_us = small.clock.now_us()
        await until(lambda: all(sender.last_acknowledged_us > held_us for sender in load.gateways), 20)  # doors go on
        disk.make_room()
        await small.recovered(load, small.clock.now_us())

    await through(small, story)
    assert small.said("failed; it is tried again", "hosts.log") <= 4  # once a host and kind of error, not once a try
    assert small.said("the stream is taken on", "hosts.log") >= 1


async def test_a_read_only_lake_a_full_disk_of_snapshots_and_a_full_database_stop_only_what_needs_them(small: Small) -> None:
    async def story(load: Load, _: RunResult) -> None:
        await until(lambda: all(sender.last_acknowledged_us for sender in load.senders), 20)
        small.disks["lake"].remount("ro")
        for name in ("snapshots", "database"):
            small.disks[name].fill()
        for name in ("lake", "snapshots", "database"):
            await small.reaches(name, "full")
        with small.stand.running.http() as http:
            answer = http.post("/hospitals", json={"id": "sz.new", "name": "New", "tier": "secondary", "beds": 5})
            assert (answer.status_code, answer.json()["code"]) == (507, "storage-full"), answer.text
        await small.shows_live(small.clock.now_us())
        small.disks["lake"].remount("rw")
        for name in ("snapshots", "database"):
            small.disks[name].make_room()
        await small.recovered(load, small.clock.now_us())

    try:
        await through(small, story)
    finally:
        small.disks["lake"].remount("rw")
