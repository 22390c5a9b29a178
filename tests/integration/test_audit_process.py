"""Records from the stream into the access log: once each and in order, through faults of process, disk and stream."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Engine

from cluster import audit_process
from cluster.connection import Connection
from cluster.stream_beginnings import lead_on_streams
from domain import subjects
from domain.errors import StorageFull
from domain.instants import to_rfc3339
from domain.log_entries import LogRecord, commitment, read_entry
from domain.messages import LogState
from domain.tiles import bundles_of, entries_of
from runtime.bus import Bus
from runtime.clock import ManualClock
from runtime.follower import Follower
from runtime.log_events import events_between, taken_of_stream
from runtime.log_following import LogFollowing
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LogSigner
from runtime.log_store import LogReader
from runtime.log_verifier import Source, verify_log
from runtime.nats_server import NatsServer
from runtime.sealing import is_sealed
from runtime.settings import Settings
from runtime.soft_keys import SoftKeys
from runtime.sql.access import list_writes
from runtime.sql.records import note_write
from runtime.sql.write_log import untold_writes
from runtime.tasks import end
from runtime.write_relay import WriteRelay
from tests.sql_fixtures import ADA
from tests.waiting import eventually, until

pytestmark = [pytest.mark.integration, pytest.mark.clause("9.3e")]

ORIGIN = "vitalgrid/sz"


class Log:
    """A log's folder and keys, and the records that tests publish for it."""

    def __init__(self, folder: Path, bus: Bus) -> None:
        self.data_dir, self.folder = folder, folder / "audit"
        self.signer = LogSigner(SoftKeys(folder / "keys"), ORIGIN)
        self._bus = bus

    def open(self) -> LogKeeper:
        return LogKeeper.open(self.folder, self.signer, lambda: os.urandom(32))

    async def tell(self, *numbers: int, again: str = "") -> None:
        for number in numbers:
            record = LogRecord(f"t-{number}", number, "test", number, msgspec.Raw(b'{"n":%d}' % number))
            message_id = f"t-{number}{again}"  # another id: the stream takes it for another message
            await self._bus.publish(subjects.audit("test"), msgspec.json.encode(record), message_id)

    def ids(self) -> list[str]:
        reader = LogReader(self.folder)
        checkpoint = reader.checkpoint()
        if checkpoint is None:
            return []
        return [read_entry(entry).id for tile in bundles_of(checkpoint.size)
                for entry in entries_of(tile, reader.read(tile))]  # fmt: skip

    async def holds(self, *numbers: int, within_s: float = 10.0) -> None:
        """Wait until the log has these records, and verify it."""
        wanted = [f"t-{number}" for number in numbers]
        await until(lambda: len(self.ids()) >= len(wanted), within_s)
        assert self.ids() == wanted
        verify_log(Source(str(self.folder)), [key.vkey for key in self.signer.public_keys()])

    @asynccontextmanager
    async def followed(self):
        following = asyncio.create_task(LogFollowing(self._bus, self.open, ManualClock()).run())
        try:
            yield
        finally:
            await end(following)


@pytest.fixture
def log(tmp_path: Path, bus: Bus) -> Log:
    return Log(tmp_path, bus)


async def test_records_come_into_the_log_once_and_in_order(log: Log) -> None:
    await log.tell(1, 2, 3)
    async with log.followed():
        await log.holds(1, 2, 3)
        await log.tell(2, 3, 4, again="-again")
        await log.holds(1, 2, 3, 4)
    await log.tell(4, 5, again="-once-more")
    async with log.followed():
        await log.holds(1, 2, 3, 4, 5)


async def test_its_state_is_told(log: Log, bus: Bus) -> None:
    told: list[LogState] = []
    await bus.core_subscribe(subjects.LOG_STATE, lambda payload, _: told.append(msgspec.json.decode(payload, type=LogState)))
    await log.tell(1, 2)
    async with log.followed():
        await until(lambda: bool(told) and told[-1].size == 2)
    assert (told[-1].waiting, told[-1].problem) == (0, None)


async def test_a_full_disk_is_waited_for(log: Log, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("runtime.log_following._RETRY_S", 0.05)
    async with log.followed():
        await log.tell(1)
        await log.holds(1)
        paused: list[bool] = []
        pause = Follower.pause
        with monkeypatch.context() as full:
            full.setattr(Follower, "pause", lambda follower: (paused.append(True), pause(follower))[1])
            full.setattr("runtime.log_events.LogEvents.add", lambda *_: (_ for _ in ()).throw(StorageFull("no room")))
            await log.tell(2, 3)
            await until(lambda: "the access log does not grow: no room" in caplog.text)
            await until(lambda: paused)  # the stream holds what comes meanwhile, not this process
            assert log.ids() == ["t-1"]
        await log.holds(1, 2, 3)
    assert caplog.text.count("does not grow") == 1


async def test_a_damaged_log_takes_nothing_and_says_so_until_it_is_mended(
    log: Log, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.log_following._LOOK_AGAIN_S", 0.05)
    monkeypatch.setattr("runtime.log_following._TELL_S", 0.05)
    async with log.followed():
        await log.tell(1, 2)
        await log.holds(1, 2)
    tile = next((log.folder / "tile" / "0" / "000.p").iterdir())
    content = tile.read_bytes()
    tile.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    told: list[LogState] = []
    await bus.core_subscribe(subjects.LOG_STATE, lambda payload, _: told.append(msgspec.json.decode(payload, type=LogState)))
    await log.tell(3)
    async with log.followed():
        await until(lambda: bool(told) and told[-1].problem is not None)
        assert "another root" in str(told[-1].problem)
        assert log.ids() == ["t-1", "t-2"]
        tile.write_bytes(content)
        await log.holds(1, 2, 3)
        await until(lambda: told[-1].problem is None)


async def test_what_the_stream_lost_is_in_the_log_as_lost(log: Log, bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    async with log.followed():
        await log.tell(1)
        await log.holds(1)
    await log.tell(2, 3)
    await bus.purge(subjects.AUDIT_STREAM, 4)
    await log.tell(4)
    async with log.followed():
        await until(lambda: len(log.ids()) == 3)
    assert log.ids() == ["t-1", "lost-2", "t-4"]
    assert msgspec.json.decode(events_between(log.folder, 1, 2)[0].event) == {"kind": "lost", "from_sequence": 2, "records": 2}
    assert "records for the access log are lost" in caplog.text


async def test_what_is_in_the_log_leaves_the_stream(log: Log, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.log_following._FORGET_EVERY", 5)
    monkeypatch.setattr("runtime.log_following._KEEP_BEHIND", 2)
    await log.tell(*range(1, 11))
    async with log.followed():
        await log.holds(*range(1, 11))
        await first_becomes(bus, 9)
        await log.tell(11)
        await log.holds(*range(1, 12))


async def first_becomes(bus: Bus, sequence: int) -> None:
    async def is_first() -> bool:
        return (await bus.stream_state(subjects.AUDIT_STREAM)).first_sequence == sequence

    await eventually(is_first)


async def test_what_is_in_the_log_leaves_the_stream_at_a_start(log: Log, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    await log.tell(*range(1, 6))
    async with log.followed():
        await log.holds(*range(1, 6))
    monkeypatch.setattr("runtime.log_following._KEEP_BEHIND", 2)
    async with log.followed():
        await first_becomes(bus, 4)


async def test_a_small_stream_is_never_full_of_what_is_in_the_log(log: Log, bus: Bus) -> None:
    await bus.ensure_streams(max_stream_bytes=2**20, retention_s=86_400, duplicate_window_s=600)
    subject, event = subjects.audit("test"), msgspec.Raw(b'"%b"' % (b"x" * 2**18))
    async with log.followed():
        for number in range(1, 7):
            await bus.publish(
                subject, msgspec.json.encode(LogRecord(f"t-{number}", number, "test", number, event)), f"t-{number}"
            )
            await until(lambda wanted=number: len(log.ids()) == wanted)
            await first_becomes(bus, number + 1)


async def test_a_new_stream_goes_on_behind_what_the_log_has(log: Log, bus: Bus) -> None:
    async with log.followed():
        await log.tell(1, 2, 3)
        await log.holds(1, 2, 3)
    await bus._jetstream.delete_stream(subjects.AUDIT_STREAM)
    limits = {"max_stream_bytes": 2**30, "retention_s": 86_400, "duplicate_window_s": 600}
    await bus.ensure_streams(**limits)
    taken = {subjects.AUDIT_STREAM: taken_of_stream(log.folder)}
    assert await lead_on_streams(bus, taken) == [subjects.AUDIT_STREAM]
    await log.tell(4)
    async with log.followed():
        await log.holds(1, 2, 3, 4)


async def test_a_killed_process_loses_and_doubles_nothing(log: Log, nats_server: NatsServer, nats_url: tuple[str, str]) -> None:
    """The process as the platform starts it, killed again and again while records come."""
    Connection(pid=os.getpid(), nats_url=nats_url[0], nats_token=nats_url[1]).save(log.data_dir)
    environment = {**os.environ, "VITALGRID_DATA_DIR": str(log.data_dir)}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "cluster.audit_process"], env=environment)

    told = 0
    for _ in range(3):
        process = start()
        before = len(log.ids())
        while len(log.ids()) <= before:  # told while it works, so that the kill comes in the midst of something
            told += 1
            await log.tell(told)
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
    process = start()
    try:
        await log.holds(*range(1, told + 1), within_s=60)  # a process starts, and takes all that came meanwhile
        process.terminate()
        assert await asyncio.to_thread(process.wait) == 0
    finally:
        process.kill()


async def test_every_write_to_the_business_database_is_in_the_log(engine: Engine, log: Log, bus: Bus) -> None:
    note_write(engine, ADA, "ward.close", "sz.h001/icu")
    assert await WriteRelay(engine, bus, "sz").relay() == 1
    assert await WriteRelay(engine, bus, "sz").relay() == 0
    note_write(engine, ADA, "ward.open", "sz.h001/icu")
    async with log.followed():
        relay = asyncio.create_task(WriteRelay(engine, bus, "sz").run())
        await until(lambda: log.ids() == ["w-1", "w-2"])
        await end(relay)
    opened = events_between(log.folder, 1, 2)[0]
    event = msgspec.json.decode(opened.event)
    (entity,) = event["entity"]
    assert (event["agent"][0]["who"]["display"], event["subtype"][0]["code"], event["recorded"]) == (
        ADA.who, "ward.open", to_rfc3339(ADA.now_us),
    )  # fmt: skip
    assert entity["what"]["identifier"]["value"] == "sz.h001/icu"
    # nothing is ever taken out of the log again, so nothing that names a patient goes in
    assert is_sealed(entity["detail"][0]["valueString"])
    assert list_writes(engine, limit=1).rows[0]["reason"] == ADA.reason
    entry = LogReader(log.folder).entry(1, 2)
    assert read_entry(entry).commitment == commitment(opened.salt, opened.event)
    assert ADA.who.encode() not in entry


async def test_a_write_told_twice_is_in_the_log_once(
    engine: Engine, log: Log, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay ends between telling and noting that it told; and the stream has forgotten the message's id by then."""
    note_write(engine, ADA, "ward.close", "sz.h001/icu")
    with monkeypatch.context() as patched:
        patched.setattr("runtime.write_relay.mark_told", lambda *_: (_ for _ in ()).throw(RuntimeError))
        with pytest.raises(RuntimeError):
            await WriteRelay(engine, bus, "sz").relay()
    async with log.followed():
        await until(lambda: log.ids() == ["w-1"])
        await bus._jetstream.delete_stream(subjects.AUDIT_STREAM)
    await bus.ensure_streams(max_stream_bytes=2**30, retention_s=86_400, duplicate_window_s=600)
    await lead_on_streams(bus, {subjects.AUDIT_STREAM: taken_of_stream(log.folder)})
    note_write(engine, ADA, "ward.open", "sz.h001/icu")
    assert await WriteRelay(engine, bus, "sz").relay() == 2
    async with log.followed():
        await until(lambda: log.ids() == ["w-1", "w-2"])


async def test_an_id_that_a_restored_database_gives_again_is_another_write(
    engine: Engine, log: Log, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database came back without its newest rows while the stream still remembers the ids of their messages."""
    note_write(engine, ADA, "ward.close", "sz.h001/icu")
    row = untold_writes(engine, 1)[0]
    for action in ("ward.close", "ward.close", "ward.open"):
        monkeypatch.setattr("runtime.write_relay.untold_writes", lambda *_, action=action: [row | {"action": action}])
        await WriteRelay(engine, bus, "sz").relay()
    async with log.followed():
        await until(lambda: log.ids() == ["w-1", "w-1#stream-2"])


async def test_whatever_breaks_the_log_is_opened_again(
    log: Log, bus: Bus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("runtime.log_following._LOOK_AGAIN_S", 0.05)
    take = LogKeeper.take
    broken = iter([True])

    def break_once(keeper: LogKeeper, records: list) -> int:
        if next(broken, False):
            raise RuntimeError("nobody thought of it")
        return take(keeper, records)

    monkeypatch.setattr(LogKeeper, "take", break_once)
    await log.tell(1)
    async with log.followed():
        await log.holds(1)
    assert "does not grow: RuntimeError: nobody thought of it" in caplog.text


async def test_a_process_that_cannot_follow_ends(
    tmp_path: Path, nats_url: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: LogFollowing) -> None:
        raise MemoryError

    monkeypatch.setenv("VITALGRID_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(LogFollowing, "run", broken)
    for quiet in ("share_finely", "configure_logging"):
        monkeypatch.setattr(audit_process, quiet, lambda *_: None)
    Connection(pid=os.getpid(), nats_url=nats_url[0], nats_token=nats_url[1]).save(tmp_path)
    with pytest.raises(MemoryError):
        async with asyncio.timeout(10):
            await audit_process.main()


def test_the_log_has_a_name_for_life() -> None:
    assert Settings(region_id="gz").audit_origin == "vitalgrid/gz"
    assert Settings(audit={"origin": "example.org/log"}).audit_origin == "example.org/log"
    for origin in ("a b", "a+b", ""):
        with pytest.raises(ValueError, match=r"audit.origin"):
            Settings(audit={"origin": origin})
