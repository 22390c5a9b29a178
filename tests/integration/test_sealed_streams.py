"""nats-server's own encryption of its store: switched on, killed, its key rotated, lost, or another one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster.first_start import prepare_database, sealer_of
from cluster.key_orders import SETTLED_S, destroy_key, opened, rotate_key
from cluster.sealing import STREAMS, StreamSeal, file_seal, make_keys
from domain import subjects
from domain.errors import Conflict
from runtime.bus import Bus
from runtime.clock import ManualClock, SystemClock
from runtime.keys import KeyGone, KeyMissing
from runtime.settings import Settings
from runtime.soft_keys import SoftKeys
from runtime.sql.engine import open_engine
from tests.sealed_bus import running_bus, settings_of

PLANTED = b"planted-in-a-reject"

pytestmark = [pytest.mark.integration, pytest.mark.clause("7.2c")]


async def plant(bus: Bus, *numbers: int) -> None:
    for number in numbers:
        await bus.publish(subjects.REJECTS_SUBJECTS[0].replace(">", "test"), PLANTED + b"-%d" % number, f"m-{number}")


async def held(bus: Bus) -> list[int]:
    state = await bus.stream_state(subjects.REJECTS_STREAM)
    kept = [await bus.get_message(subjects.REJECTS_STREAM, at) for at in range(1, state.last_sequence + 1)]
    return [int(message.payload.rpartition(b"-")[2]) for message in kept if message is not None]


def readable(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and PLANTED in path.read_bytes()]


@pytest.mark.clause("9.3")
async def test_streams_in_clear_are_sealed_at_a_start_and_survive_kills_and_new_keys(tmp_path: Path) -> None:
    async with running_bus(settings_of(tmp_path, sealed=False)) as (_, bus, key):
        assert key is None
        await plant(bus, 1, 2)
    assert readable(tmp_path)
    async with running_bus(settings_of(tmp_path)) as (server, bus, key):
        assert await held(bus) == [1, 2]
        await plant(bus, 3)
        await bus.close()
        server.kill()
    assert readable(tmp_path) == []
    SoftKeys(tmp_path / "keys").rotate(STREAMS)
    async with running_bus(settings_of(tmp_path)) as (server, bus, key):
        assert key is not None
        assert key.former is not None
        await plant(bus, 4)
        server.kill()
        await server.start()  # again with both keys, as the platform does
        assert await held(bus) == [1, 2, 3, 4]
    SoftKeys(tmp_path / "keys").destroy(STREAMS, 1)
    async with running_bus(settings_of(tmp_path, sealed=False)) as (_, bus, key):  # it cannot go back
        assert key is not None
        assert key.former is None
        assert await held(bus) == [1, 2, 3, 4]
    assert readable(tmp_path) == []


async def test_an_ordered_key_is_taken_at_the_next_start_and_the_old_one_is_destroyed_after_it(tmp_path: Path) -> None:
    settings, clock = settings_of(tmp_path), ManualClock(SystemClock().now_us())

    def order(what: Callable[..., object], *arguments: object) -> object:
        with opened(settings, clock) as stores:
            return what(stores, *arguments)

    sealer = sealer_of(settings)
    engine = open_engine(settings.sql_url, sealer)
    prepare_database(engine, settings, sealer)
    engine.dispose()
    async with running_bus(settings) as (_, bus, _):
        await plant(bus, 1)
        assert order(rotate_key, STREAMS) == (2, 0)
        await plant(bus, 2)
    clock.advance(SETTLED_S + 600)  # keys say when they were made by the machine's own clock, which went on
    with pytest.raises(Conflict, match=r"are 1 the streams' store: stop the platform and start it"):
        order(destroy_key, STREAMS, 1)
    async with running_bus(settings) as (_, bus, _):
        assert await held(bus) == [1, 2]
        order(destroy_key, STREAMS, 1)
        await plant(bus, 3)
    async with running_bus(settings) as (_, bus, key):
        assert key is not None
        assert key.former is None
        assert await held(bus) == [1, 2, 3]


@pytest.fixture
async def sealed(tmp_path: Path) -> Settings:
    async with running_bus(settings_of(tmp_path)) as (_, bus, _):
        await plant(bus, 1)
    return settings_of(tmp_path)


async def test_the_key_is_in_no_file_and_on_no_command_line(sealed: Settings) -> None:
    async with running_bus(sealed) as (server, _, key):
        assert key is not None
        assert key.secret not in repr(key)
        secret = key.secret.encode()
        assert secret.decode() not in " ".join(psutil.Process(server.pid).cmdline())
    assert [path for path in sealed.data_dir.rglob("*") if path.is_file() and secret in path.read_bytes()] == []


@pytest.mark.clause("9.3")
async def test_sealed_streams_are_not_begun_anew_under_no_key_or_another(sealed: Settings) -> None:
    """nats-server would start without the streams, and the platform make empty ones in their place."""
    keys = sealed.data_dir / "keys"
    shutil.move(keys, keys.with_name("saved"))
    with pytest.raises(KeyMissing, match="is sealed, and key lake and streams is missing: restore"):
        make_keys(sealed)
    with pytest.raises(KeyMissing):
        StreamSeal(sealed).prepare()
    make_keys(settings_of(sealed.data_dir.parent / "elsewhere"))
    shutil.copytree(sealed.data_dir.parent / "elsewhere" / "keys", keys)
    with pytest.raises(KeyMissing, match="not the one that the streams are sealed under"):
        StreamSeal(sealed).prepare()
    shutil.rmtree(keys)
    shutil.move(keys.with_name("saved"), keys)
    async with running_bus(sealed) as (_, bus, _):
        assert await held(bus) == [1]
    (sealed.data_dir / "nats" / "sealed.json").unlink()
    with pytest.raises(KeyMissing, match=r"sealed\.json, which says how, is missing"):
        StreamSeal(sealed).prepare()


async def test_a_destroyed_key_is_not_replaced_by_the_way(sealed: Settings) -> None:
    SoftKeys(sealed.keys_dir).destroy(STREAMS, 1)
    with pytest.raises(KeyMissing, match="is sealed"):
        make_keys(sealed)
    with pytest.raises(KeyGone):
        StreamSeal(sealed).prepare()


def test_nothing_is_made_where_nothing_is_to_be_sealed(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, sealed=False)
    assert make_keys(settings) == []
    assert StreamSeal(settings).prepare() is None
    StreamSeal(settings).remember()
    assert list(tmp_path.iterdir()) == []
    assert not file_seal(settings).writes
