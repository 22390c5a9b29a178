"""A bit flips on disk while the platform is down: it is detected and named, and what can be rebuilt is rebuilt."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from runtime.clock import SystemClock
from runtime.lake import Lake, ReadingQuery
from runtime.lake_queries import prune
from tests.faults.checker import Observed, check
from tests.faults.fault_run import FaultBench, Pace
from tests.faults.history import History
from tests.faults.observing import lake_rows, rest_rows
from tests.faults.schedule import Plan
from tests.faults.senders import HOSPITALS, Cast, Load
from tests.faults.stand import Stand
from tests.running_platform import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(240)]


@dataclass(frozen=True)
class Kept:
    """The folder of a platform that was killed outright, and what its senders know."""

    folder: Path
    cast: Cast
    history: History


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    async def fill(folder: Path) -> Kept:
        bench = FaultBench(Stand(folder, proxied=False), Pace(load_s=5.0))
        await bench.start()
        try:
            result = await bench.play(Plan(0, (), ()))
            assert result.holds, str(result)
        finally:
            await bench.stand.kill_whole()
        assert bench.cast is not None
        assert bench.history is not None
        return Kept(folder, bench.cast, bench.history)

    return asyncio.run(fill(tmp_path_factory.mktemp("kept") / "var"))


@pytest.fixture
def stand(kept: Kept, tmp_path: Path) -> Stand:
    shutil.copytree(kept.folder, tmp_path / "var", ignore=shutil.ignore_patterns("socket"))
    return Stand(tmp_path / "var", proxied=False)


def flip(path: Path, at: float = 0.5) -> Path:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 0x04
    path.write_bytes(data)
    return path


async def send_more(stand: Stand, kept: Kept) -> History:
    """A frame and some readings of every sender, acknowledged and in the lake."""
    clock = SystemClock()
    history = History(clock.now_us())
    kept.history.until = history.base
    load = Load(kept.cast, history, clock.now_us, np.random.SeedSequence(1))
    await load.start(stand.door_port)
    try:
        await asyncio.to_thread(wait_until, lambda: len(history.frame()) > 500, 20)
        load.rest()
        await asyncio.to_thread(wait_until, lambda: not history.waiting, 30)
        await asyncio.to_thread(
            wait_until, lambda: len(lake_rows(stand.lake_dir, history)) >= len(history.frame()), 30,
            lambda: stand.running.log("hosts.log")[-2000:],
        )  # fmt: skip
    finally:
        await load.close()
    return history


def assert_whole(stand: Stand, *histories: History) -> None:
    for history in histories:
        seen = Observed(lake_rows(stand.lake_dir, history), rest_rows(stand, history), np.empty(0, np.uint64))
        verdict = check(history, seen, tell_by_us=0)
        assert verdict.holds, "\n".join(map(str, verdict.violations))


@pytest.mark.clause("9.3")
async def test_damaged_files_are_named_a_snapshot_gives_way_to_the_one_before_and_readings_are_refused_until_whole(
    stand: Stand, kept: Kept
) -> None:
    newest = [max(folder.glob("*.snapshot")) for folder in (stand.data_dir / "snapshots").iterdir()]
    names = {flip(path).name for path in newest}
    of_hospital = prune(Lake(stand.lake_dir).state().files, ReadingQuery(hospitals=[HOSPITALS[0]]))  # each host has its own
    file = flip(stand.lake_dir / of_hospital.sort("size_bytes")["path"][-1])
    try:
        await stand.start()
        said = stand.running.log("hosts.log")
        assert {name for name in names if f"file={name}" in said} == names
        for process, params in (("api", {"device": f"{HOSPITALS[0]}/mon-0"}), ("queries", {"hospital": HOSPITALS[0]})):
            with stand.running.http() as http:
                answer = http.get("/readings", params={**params, "limit": 10})
            assert answer.status_code == 500, answer.text
            assert (answer.json()["code"], file.name in answer.text) == ("integrity-violation", True), answer.text
            assert file.name in stand.running.log(f"{process}.log")
        flip(file)  # as a restored backup would
        assert_whole(stand, kept.history, await send_more(stand, kept))
    finally:
        await stand.close()


@pytest.mark.long
@pytest.mark.clause("9.3")
async def test_a_damaged_block_of_the_stream_is_named_and_what_comes_next_is_kept(stand: Stand, kept: Kept) -> None:
    """What the lake has is whole; the server drops what lies behind the damage, and what nobody had taken goes with it."""
    block = max((stand.data_dir / "nats").rglob("READINGS/msgs/*.blk"), key=lambda path: path.stat().st_size)
    flip(block)
    for index in block.parent.glob("index.db"):
        index.unlink()  # it would hide the damage until it is out of date
    try:
        await stand.start()
        assert "the end of a stream is lost" in stand.running.log("up.log")
        assert "the end of stream READINGS is lost" in (stand.data_dir / "up.out").read_text()
        assert_whole(stand, kept.history, await send_more(stand, kept))
    finally:
        await stand.close()


@pytest.mark.long
@pytest.mark.clause("9.3")
async def test_a_damaged_entry_of_the_lakes_log_is_named_and_nothing_is_built_on_it(stand: Stand, kept: Kept) -> None:
    entries = sorted((stand.lake_dir / "_delta_log").glob("*.json"))
    entry = entries[len(entries) // 2]
    whole = entry.read_bytes()
    entry.write_bytes(whole.replace(b'":', b'"z', 1))
    with pytest.raises(AssertionError, match=entry.name):
        await stand.start()
    entry.write_bytes(whole)
    try:
        await stand.start()
        assert_whole(stand, kept.history, await send_more(stand, kept))
    finally:
        await stand.close()


def test_the_platform_was_killed_with_everything_it_keeps(kept: Kept) -> None:
    assert len(kept.history.frame()) > 1_000
    assert {path.name for path in kept.folder.iterdir()} >= {"nats", "lake", "snapshots", "vitalgrid.db"}
