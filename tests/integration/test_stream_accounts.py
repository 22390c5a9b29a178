"""An installation of before: its streams lay in nats-server's nameless account, and are the platform's own account's now."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.js import api

from cluster.sealing import STREAMS, StreamSeal, make_keys
from domain import subjects
from domain.errors import Conflict, IntegrityViolation
from runtime import stream_store
from runtime.bus import Bus
from runtime.bus_access import ACCOUNT
from runtime.nats_server import StoreKey, find_nats_server
from runtime.settings import Settings
from runtime.soft_keys import SoftKeys
from runtime.stream_store import NAMELESS, hand_over
from tests.sealed_bus import TOKEN, running_bus, settings_of
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.clause("9.3d"), pytest.mark.clause("9.4")]

SAID = {subjects.READINGS_STREAM: "reading.0", subjects.REJECTS_STREAM: "reject.sz.h001"}
MESSAGES = 40
LARGE = b"x" * 60_000  # so that streams have several blocks, each with a key of its own


@asynccontextmanager
async def as_before(settings: Settings) -> AsyncIterator[nats.NATS]:
    """A server as earlier versions configured it, and a connection to it."""
    make_keys(settings)
    seal, folder = StreamSeal(settings), settings.data_dir / "nats"
    key = seal.prepare()
    sealed = "" if key is None else key.config()
    ports = folder / "ports"
    shutil.rmtree(ports, ignore_errors=True)
    ports.mkdir(parents=True)
    (folder / "before.conf").write_text(
        f'server_name: "vitalgrid"\nlisten: "127.0.0.1:-1"\nports_file_dir: "{ports}"\nmax_payload: 8388608\n'
        f'authorization {{ token: "{TOKEN}" }}\n'
        f'jetstream {{ store_dir: "{folder / "jetstream"}", sync_interval: always, max_file_store: 4GB{sealed} }}\n'
        "feature_flags { js_ack_fc_v2: false }\n"
    )
    with (folder / "before.log").open("ab") as log:
        server = subprocess.Popen(  # noqa: ASYNC220
            [find_nats_server(), "-c", folder / "before.conf"], stdout=log, stderr=log,
            env={**os.environ, **(key.environment() if key else {})},
        )  # fmt: skip
    try:
        await until(lambda: [path for path in ports.glob("*.ports") if path.read_text().endswith("}")], 15)
        client = await nats.connect(json.loads(next(ports.glob("*.ports")).read_text())["nats"][0], token=TOKEN)
        yield client
        await client.close()
        seal.remember()
    finally:
        server.kill()  # what it acknowledged is on disk
        server.wait()


async def fill(settings: Settings) -> None:
    async with as_before(settings) as client:
        jetstream = client.jetstream()
        for stream, subject in SAID.items():
            await jetstream.add_stream(
                api.StreamConfig(name=stream, subjects=[subject], allow_direct=True, max_bytes=4 * 2**20)
            )
            for number in range(MESSAGES):
                await jetstream.publish(subject, b"%d " % number + LARGE, headers={"Nats-Msg-Id": f"{stream}-{number}"})
            await jetstream.add_consumer(stream, durable_name="of-before")


async def held(bus: Bus, stream: str) -> list[int]:
    """Numbers of the messages of a stream, in the order of their sequences."""
    state = await bus.stream_state(stream)
    kept = [await bus.get_message(stream, at) for at in range(1, state.last_sequence + 1)]
    return [int(message.payload.split()[0]) for message in kept if message is not None]


def accounts(settings: Settings) -> list[str]:
    return sorted(path.name for path in (settings.data_dir / "nats" / "jetstream" / "jetstream").iterdir())


@pytest.mark.parametrize("sealed", [False, True], ids=["in clear", "sealed"])
async def test_what_was_acknowledged_before_is_read_and_goes_on(tmp_path: Path, sealed: bool) -> None:
    settings = settings_of(tmp_path, sealed=sealed)
    await fill(settings)
    assert accounts(settings) == [NAMELESS]
    for _ in range(2):
        async with running_bus(settings) as (_, bus, _):
            for stream, subject in SAID.items():
                assert (await held(bus, stream))[:MESSAGES] == list(range(MESSAGES))
                assert await bus.publish(subject, b"40 again", f"{stream}-40") == MESSAGES + 1
                assert await bus.publish(subject, b"again", f"{stream}-3") == 4  # ids are known as before
        assert accounts(settings) == [ACCOUNT]
    planted = [path for path in (tmp_path / "nats").rglob("*") if path.is_file() and LARGE[:1000] in path.read_bytes()]
    assert bool(planted) is not sealed


async def test_a_store_whose_key_is_being_replaced_or_that_is_to_be_sealed_now(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, sealed=True)
    await fill(settings_of(tmp_path, sealed=False))
    make_keys(settings)
    async with running_bus(settings) as (_, bus, _):
        assert await held(bus, subjects.READINGS_STREAM) == list(range(MESSAGES))
    rotated = settings_of(tmp_path / "rotated", sealed=True)
    await fill(rotated)
    SoftKeys(rotated.keys_dir).rotate(STREAMS)
    async with running_bus(rotated) as (_, bus, _):
        assert await held(bus, subjects.READINGS_STREAM) == list(range(MESSAGES))
    SoftKeys(rotated.keys_dir).destroy(STREAMS, 1)
    async with running_bus(rotated) as (_, bus, _):
        assert await held(bus, subjects.REJECTS_STREAM) == list(range(MESSAGES))


class Killed(Exception):
    """In the place of kill -9: nothing after it is done."""


@pytest.mark.parametrize("sealed", [False, True], ids=["in clear", "sealed"])
async def test_killed_at_any_step_it_is_complete_after_the_next_start(tmp_path: Path, monkeypatch, sealed: bool) -> None:
    settings = settings_of(tmp_path / "0", sealed=sealed)
    await fill(settings)
    key = StreamSeal(settings).prepare()
    secrets = key.as_the_server_has_them() if isinstance(key, StoreKey) else []
    steps = 0
    while True:
        copy = tmp_path / f"{steps + 1}"
        shutil.copytree(settings.data_dir, copy)
        left = steps

        def step(real, *arguments, **named):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return real(*arguments, **named)

        store = copy / "nats" / "jetstream"
        with monkeypatch.context() as patched:
            for owner, name in (
                (Path, "hardlink_to"),
                (Path, "write_bytes"),
                (Path, "rename"),
                (stream_store, "fsync"),
                (os, "unlink"),
                (os, "rmdir"),
            ):
                real = getattr(owner, name)
                patched.setattr(owner, name, lambda *a, _real=real, **n: step(_real, *a, **n))
            try:
                hand_over(store, ACCOUNT, secrets)
                is_whole = True
            except Killed:
                is_whole = False
        hand_over(store, ACCOUNT, secrets)
        assert not hand_over(store, ACCOUNT, secrets)
        assert [path.name for path in (store / "jetstream").iterdir()] == [ACCOUNT]
        assert digest(store) == digest(settings.data_dir / "nats" / "jetstream")
        if is_whole:
            break
        if steps % 10 == 0:  # a server is asked now and then: what is on disk is compared each time
            async with running_bus(settings_of(copy, sealed=sealed)) as (_, bus, _):
                assert await held(bus, subjects.READINGS_STREAM) == list(range(MESSAGES))
        shutil.rmtree(copy)
        steps += 1
    assert steps > (1 if not sealed else 20)


def digest(store: Path) -> dict[str, bytes]:
    """What files hold, whichever account they are of; of key files that they are there."""
    (account,) = (store / "jetstream").iterdir()
    return {
        str(path.relative_to(account)): b"" if path.suffix == ".key" else path.read_bytes()
        for path in account.rglob("*") if path.is_file()
    }  # fmt: skip


async def test_streams_of_an_older_version_that_ran_since_are_not_mixed_in(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, sealed=False)
    await fill(settings)
    async with running_bus(settings):
        pass
    await fill(settings)
    with pytest.raises(Conflict, match="an older version has run here since"):
        async with running_bus(settings):
            pass
    assert accounts(settings) == [NAMELESS, ACCOUNT]


@pytest.mark.parametrize("which", ["meta.key", "msgs/*.key", "obs/*/meta.key"], ids=["stream", "block", "consumer"])
async def test_a_damaged_key_is_named_and_nothing_is_changed(tmp_path: Path, which: str) -> None:
    settings = settings_of(tmp_path, sealed=True)
    await fill(settings)
    streams = tmp_path / "nats" / "jetstream" / "jetstream" / NAMELESS / "streams"
    path = next((streams / "REJECTS").glob(which))
    path.write_bytes(b"")  # as a power cut may leave it
    with pytest.raises(IntegrityViolation) as caught:
        async with running_bus(settings):
            pass
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith(f"move {streams / 'REJECTS'} aside")
    assert accounts(settings) == [NAMELESS]
    (streams / "REJECTS").rename(tmp_path / "aside")
    async with running_bus(settings) as (_, bus, _):
        assert await held(bus, subjects.READINGS_STREAM) == list(range(MESSAGES))
