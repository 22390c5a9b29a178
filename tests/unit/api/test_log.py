"""The access log over REST: all that a verifier needs, as the specification says, and nothing of what an event was."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from api.app import create_app
from domain.log_entries import LogRecord
from domain.merkle import check_consistency, check_inclusion, leaf_hash, root_of
from domain.signed_notes import Proof
from domain.tiles import Tile, entries_of
from runtime import log_verifier
from runtime.log_events import Received
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LogSigner
from runtime.log_store import LogReader
from runtime.soft_keys import SoftKeys
from tests.unit.api.conftest import API, client_of, services_of

SIZE = 259
SECRET = "nobody shall read this"


@pytest.fixture
def signer(tmp_path: Path) -> LogSigner:
    return LogSigner(SoftKeys(tmp_path / "keys"), "vitalgrid/sz")


@pytest.fixture
def folder(tmp_path: Path, signer: LogSigner) -> Path:
    """A log of 259 entries, of which 5 were signed before."""
    keeper = LogKeeper.open(tmp_path / "audit", signer, lambda: os.urandom(32))
    for numbers in (range(5), range(5, SIZE)):
        records = [LogRecord(f"t-{n}", n, "test", n, msgspec.Raw(msgspec.json.encode(SECRET))) for n in numbers]
        keeper.take([Received(record.n + 1, record) for record in records])
    keeper.close()
    return tmp_path / "audit"


@pytest.fixture
async def client(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    made = create_app(services_of(log=LogReader(folder)), background=False)
    async with made.router.lifespan_context(made), client_of(made, under=f"{API}log/") as connected:
        yield connected


@pytest.mark.clause("6.1b")
async def test_an_entry_is_proved_to_who_knows_the_keys(client: httpx.AsyncClient, signer: LogSigner) -> None:
    for index in (0, 255, SIZE - 1):
        answer = await client.get(f"entries/{index}/proof")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        proof = Proof.parse(answer.content)
        entry = (await client.get(f"entries/{index}")).content
        said = signer.verify(proof.checkpoint)
        check_inclusion(leaf_hash(entry), proof.index, said.size, proof.hashes, said.root)
        assert SECRET.encode() not in entry + answer.content
        keys = (await client.get("keys")).text.split()
        assert log_verifier.verify_proof(answer.content, entry, keys).size == SIZE


@pytest.mark.clause("6.1b")
async def test_the_log_is_shown_to_begin_with_an_earlier_one(
    client: httpx.AsyncClient, signer: LogSigner, folder: Path
) -> None:
    now, node = signer.verify((await client.get("checkpoint")).content), LogReader(folder).tree(SIZE).node
    for old, new in ((5, None), (5, 200), (0, 7), (SIZE, SIZE), (128, SIZE)):
        answer = await client.get("consistency", params={"from": old} | ({} if new is None else {"to": new}))
        hashes = [log_verifier._base64(line) for line in answer.text.split()]
        end = SIZE if new is None else new
        check_consistency(old, end, hashes, root_of(old, node), root_of(end, node))
    assert (now.size, now.root) == (SIZE, root_of(SIZE, node))


async def test_tiles_are_those_on_disk_and_may_be_kept_for_ever(client: httpx.AsyncClient, folder: Path) -> None:
    for path in ("0/000", "0/001.p/3", "1/000.p/1", "entries/000", "entries/001.p/3"):
        answer = await client.get(f"tile/{path}")
        assert answer.content == (folder / "tile" / path).read_bytes()
        assert answer.headers["content-type"] == "application/octet-stream"
        assert "immutable" in answer.headers["cache-control"]
    beginning = await client.get("tile/entries/000.p/5")  # is full since
    assert len(entries_of(Tile(-1, 0, 5), beginning.content)) == 5
    assert (await client.get("checkpoint")).headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", [
    "tile/0/001", "tile/0/002.p/1", "tile/9/000", "tile/0/0", "tile/..%2f..%2fkeys", "tile/events.db",
    "entries/259", "entries/-1", "entries/259/proof", "consistency?from=1&to=260",
])  # fmt: skip
async def test_what_the_log_does_not_have_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 404, answer.text


async def test_an_impossible_consistency_is_invalid(client: httpx.AsyncClient) -> None:
    for query in ("from=6&to=5", "from=-1", "to=5"):
        assert (await client.get(f"consistency?{query}")).status_code == 422


async def test_a_damaged_file_is_said_to_be(client: httpx.AsyncClient, folder: Path) -> None:
    (folder / "tile/0/000").write_bytes(b"short")
    assert (await client.get("entries/3/proof")).json()["code"] == "integrity-violation"
    (folder / "checkpoint").write_bytes(b"nothing")
    assert (await client.get("entries/3")).json()["code"] == "integrity-violation"


async def test_the_verifier_is_the_program_itself(client: httpx.AsyncClient) -> None:
    assert (await client.get("verifier")).text == inspect.getsource(log_verifier)


async def test_a_log_that_has_not_begun_is_not_found(tmp_path: Path) -> None:
    made = create_app(services_of(log=LogReader(tmp_path / "audit")), background=False)
    async with made.router.lifespan_context(made), client_of(made) as client:
        for path in ("checkpoint", "keys", "entries/0", "consistency?from=0"):
            assert (await client.get(f"/api/v1/log/{path}")).status_code == 404


async def test_the_log_answers_nobody_without_a_token(folder: Path) -> None:
    made = create_app(services_of(log=LogReader(folder)), background=False)
    async with made.router.lifespan_context(made), client_of(made, token=None) as stranger:
        for path in ("checkpoint", "tile/0/000", "entries/0", "keys", "verifier"):
            assert (await stranger.get(f"/api/v1/log/{path}")).status_code == 401
