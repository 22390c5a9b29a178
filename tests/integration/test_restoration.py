"""A host whose snapshots are gone and whose stream has forgotten its devices: known again from the business database."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from cluster.stream_beginnings import lead_on_streams, stream_beginnings, taken_of_streams
from domain import subjects
from domain.errors import Unavailable
from domain.ids import ActorKind, Address
from domain.messages import Control, DescribeActor
from runtime import shard_directory
from runtime.bus import Bus
from runtime.lake import Lake
from runtime.outbox_relay import OutboxRelay
from runtime.shard_directory import ShardDirectory, ask_directory
from runtime.snapshots import SnapshotStore
from runtime.sql import directory
from runtime.sql.alarm_projection import move_position
from runtime.sql.devices import NewDevice, register_device
from runtime.sql.engine import open_engine
from runtime.sql.patients import associate
from runtime.sql.presets import set_preset
from tests.host_rig import CLOCK, HostRig, alarms, caught_up, rejects, send
from tests.sql_fixtures import ADA, HOSPITAL, NOW_US, SmallHospital
from tests.waiting import until

pytestmark = pytest.mark.integration

SHARD = 0
METRIC = "nibp_sys"
OWN_LOW = (100.0, 110.0, None, None)  # a reading of 105 is normal for anybody else


def directory_of(engine: Engine) -> Callable[[bytes, str], Awaitable[bytes]]:
    """What answers for the business database of `engine`."""
    return ShardDirectory(partial(directory.shard_directory, engine)).answer


def delete(folder: Path) -> None:
    for path in folder.rglob("*.snapshot"):
        path.unlink()


def flip_bits(folder: Path) -> None:
    for path in folder.rglob("*.snapshot"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)


@pytest.fixture
def rig(tmp_path: Path, nats_url: tuple[str, str]) -> HostRig:
    return HostRig(tmp_path, nats_url)


@pytest.fixture
async def registered(engine: Engine, hospital: SmallHospital, bus: Bus) -> SmallHospital:
    """A hospital whose registrations are in the stream: its monitor is on its patient, who has limits of their own."""
    associate(engine, ADA, hospital.monitor["handle"], hospital.patient["patient_key"], NOW_US)
    set_preset(engine, ADA, hospital.patient["patient_key"], METRIC, OWN_LOW)
    await OutboxRelay(engine, bus, CLOCK).relay()
    return hospital


async def forget(bus: Bus, before: int) -> None:
    """What retention does in two days: everything before a sequence is gone."""
    await bus._jetstream.purge_stream(subjects.READINGS_STREAM, seq=before)


@pytest.mark.clause("9.3", "9.3d")
@pytest.mark.parametrize("lose", [delete, flip_bits])
async def test_without_a_snapshot_and_beyond_retention_nothing_is_lost_doubled_or_refused(
    lose: Callable[[Path], None], engine: Engine, registered: SmallHospital, bus: Bus, rig: HostRig,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monitor, patient = registered.monitor["handle"], registered.patient
    async with rig.host(shard_0=1) as host:
        await caught_up(host, SHARD, await send(bus, SHARD, monitor, METRIC, {1: 120.0, 2: 121.0}))
    unseen = await send(bus, SHARD, monitor, METRIC, {3: 122.0})
    await forget(bus, before=unseen)
    names = {path.name for path in rig.snapshot_dir.rglob("*.snapshot")}
    lose(rig.snapshot_dir)
    await bus.answer(subjects.DIRECTORIES, directory_of(engine))

    with caplog.at_level(logging.WARNING):
        async with rig.host("host-2", shard_0=2) as host:
            await caught_up(host, SHARD, await send(bus, SHARD, monitor, METRIC, {4: 105.0}))
            device = await host.post.ask(Address(ActorKind.DEVICE, HOSPITAL, "mon-7"), DescribeActor())
            known = await host.post.ask(Address(ActorKind.PATIENT, HOSPITAL, patient["patient_key"]), DescribeActor())

    assert names
    skipped = {getattr(record, "file", None) for record in caplog.records if "damaged snapshot" in record.message}
    assert skipped == (names if lose is flip_bits else set())
    assert rig.stored()["value"].to_list() == [120.0, 121.0, 122.0, 105.0]
    assert await rejects(bus) == []
    assert (device["patient_key"], device["bed_id"], known["devices"]) == (patient["patient_key"], "icu-07", ["mon-7"])
    raised = [(event.rule, event.subject.patient_key) for event in await alarms(bus) if event.rule.startswith("limit.")]
    assert raised == [("limit.low", patient["patient_key"])]


@pytest.mark.clause("9.3")
async def test_after_the_loss_of_the_stream_a_new_one_goes_on_behind_it(
    engine: Engine, registered: SmallHospital, bus: Bus, rig: HostRig
) -> None:
    monitor = registered.monitor["handle"]
    async with rig.host(shard_0=1) as host:
        await caught_up(host, SHARD, await send(bus, SHARD, monitor, METRIC, {1: 120.0, 2: 121.0}))
    pump, _ = register_device(engine, ADA, HOSPITAL, NewDevice("pump-4", "infusion-pump"))
    await OutboxRelay(engine, bus, CLOCK).relay()  # into the stream, which is lost before any host sees it
    await bus._jetstream.delete_stream(subjects.READINGS_STREAM)
    beginnings = stream_beginnings(Lake(rig.lake_dir), SnapshotStore(rig.snapshot_dir), engine, rig.audit_dir)
    await bus.ensure_streams(max_stream_bytes=2**30, retention_s=86_400, duplicate_window_s=600, beginnings=beginnings)
    await bus.answer(subjects.DIRECTORIES, directory_of(engine))
    async with rig.host("host-2", shard_0=2) as host:
        await send(bus, SHARD, pump["handle"], "battery", {1: 80.0})
        await caught_up(host, SHARD, await send(bus, SHARD, monitor, METRIC, {3: 122.0}))
    assert sorted(rig.stored()["value"].to_list()) == [80.0, 120.0, 121.0, 122.0]
    assert await rejects(bus) == []


async def test_streams_of_a_new_platform_begin_at_one(engine: Engine, rig: HostRig) -> None:
    beginnings = stream_beginnings(Lake(rig.lake_dir), SnapshotStore(rig.snapshot_dir), engine, rig.audit_dir)
    assert beginnings == {subjects.READINGS_STREAM: 1, subjects.ALARMS_STREAM: 1, subjects.AUDIT_STREAM: 1}


async def test_a_shard_whose_stream_is_whole_asks_nobody(registered: SmallHospital, bus: Bus, rig: HostRig) -> None:
    async with rig.host(shard_0=1) as host:
        await caught_up(host, SHARD, await send(bus, SHARD, registered.monitor["handle"], METRIC, {1: 120.0}))
    delete(rig.snapshot_dir)
    async with rig.host("host-2", shard_0=2) as host:  # nobody would answer
        await caught_up(host, SHARD, await send(bus, SHARD, registered.monitor["handle"], METRIC, {2: 121.0}))
    assert rig.stored()["value"].to_list() == [120.0, 121.0]
    assert await rejects(bus) == []


@pytest.mark.usefixtures("registered")
async def test_a_host_waits_for_the_directory_without_holding_up_its_other_shards(
    engine: Engine, bus: Bus, rig: HostRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await forget(bus, before=3)
    async with rig.host() as host:
        monkeypatch.setattr("actors.restoration.ask_directory", lambda bus, shard: ask_directory(bus, shard, 0.2))
        with pytest.raises(Unavailable, match="nobody answers"):
            await host.acquire(SHARD, 1)
        assert host.heartbeat().shards == []
        monkeypatch.setattr("actors.restoration.ask_directory", ask_directory)
        waiting = asyncio.create_task(host.acquire(SHARD, 2))
        await asyncio.sleep(0)
        await bus.answer(subjects.DIRECTORIES, directory_of(engine))
        await waiting
        assert [(held.shard, held.devices) for held in host.heartbeat().shards] == [(SHARD, 4)]


async def nobody(bus: Bus, shard: int) -> list[Control]:
    return await ask_directory(bus, shard, 0.2)


async def failing_disk(_bus: Bus, _shard: int) -> list[Control]:
    raise OSError(errno.EIO, "a disk that fails")


@pytest.mark.parametrize("ask", [nobody, failing_disk])
@pytest.mark.usefixtures("registered")
async def test_a_shard_that_cannot_be_restored_after_a_broken_turn_is_let_go_and_the_others_go_on(
    ask: Any, engine: Engine, bus: Bus, rig: HostRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Found by reading: an error that nobody had thought of ended the turns of all the host's shards, for a minute."""
    await forget(bus, before=3)
    silence = await bus.answer(subjects.DIRECTORIES, directory_of(engine))
    async with rig.host(shard_0=1, shard_1=1) as host:
        await silence()
        monkeypatch.setattr("actors.restoration.ask_directory", ask)
        monkeypatch.setattr(host._runners[SHARD], "turn", broken)
        await send(bus, SHARD, 2, METRIC, {1: 120.0})
        await until(lambda: [held.shard for held in host.heartbeat().shards] == [1])
        await caught_up(host, 1, await send(bus, 1, 99, METRIC, {1: 120.0}))
    assert "a shard could not be restored" in caplog.messages
    assert [reason for reason, _ in await rejects(bus)] == ["unknown-device"]  # handle 99 of shard 1


def broken(_most_readings: int) -> None:
    raise ZeroDivisionError


async def test_a_database_that_is_away_is_waited_for(bus: Bus, nats_url: tuple[str, str], tmp_path: Path) -> None:
    await bus.answer(subjects.DIRECTORIES, directory_of(open_engine(f"sqlite:///{tmp_path}/no/such.db")))
    asker = await Bus.connect(*nats_url, "asker")
    with pytest.raises(Unavailable):
        await ask_directory(asker, SHARD, 0.3)
    assert shard_directory.PATIENCE_S <= 10  # a host's grant is awaited by the supervisor's round
    await asker.close()


@pytest.mark.clause("9.3")
async def test_a_stream_that_lost_its_end_goes_on_behind_what_was_taken_of_it(
    engine: Engine, registered: SmallHospital, bus: Bus, rig: HostRig
) -> None:
    """Found by flipping a bit in a block: what came next got sequences that hosts had passed, and was lost in silence."""
    monitor = registered.monitor["handle"]
    async with rig.host(shard_0=1) as host:
        await caught_up(host, SHARD, await send(bus, SHARD, monitor, METRIC, {n: 120.0 + n for n in range(1, 9)}))
    state = await bus.stream_state(subjects.READINGS_STREAM)
    kept = Lake(rig.lake_dir), SnapshotStore(rig.snapshot_dir), engine, rig.audit_dir
    with engine.begin() as connection:
        move_position(connection, "alarm-desk", 7)
    await bus._jetstream.delete_stream(subjects.READINGS_STREAM)
    limits = {"max_stream_bytes": 2**30, "retention_s": 86_400, "duplicate_window_s": 600}
    await bus.ensure_streams(**limits, beginnings={subjects.READINGS_STREAM: state.last_sequence - 4})
    assert await lead_on_streams(bus, taken_of_streams(*kept)) == [subjects.READINGS_STREAM, subjects.ALARMS_STREAM]
    assert await lead_on_streams(bus, taken_of_streams(*kept)) == []
    assert (await bus.stream_state(subjects.ALARMS_STREAM)).last_sequence == 7
    await bus.answer(subjects.DIRECTORIES, directory_of(engine))
    async with rig.host("host-2", shard_0=2) as host:
        await caught_up(host, SHARD, await send(bus, SHARD, monitor, METRIC, {10: 140.0}))
    assert sorted(rig.stored()["value"].to_list()) == [*(120.0 + n for n in range(1, 9)), 140.0]
