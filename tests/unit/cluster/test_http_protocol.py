"""Peers that make an HTTP server wait, or send it what is no request: each is ended, and nobody else is held up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

import cluster.serving
from cluster.http_protocol import LimitedHttp
from cluster.serving import serving, serving_at
from gateways import listener
from gateways.listener import ListenerLimits, bound
from tests.unit.cluster.http_stage import PATIENT, SHORT, Stage, served
from tests.waiting import until

pytestmark = pytest.mark.clause("9.1b")
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
BELIEVE = b"GET /believed HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


async def drip(writer: asyncio.StreamWriter, byte: bytes, has_ended: Callable[[], object]) -> None:
    """One byte after the other, for as long as it is let."""
    while not has_ended():
        with contextlib.suppress(ConnectionError):
            writer.write(byte)
            await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("begun", "byte", "why"),
    [
        (b"", b"", "no-request"),
        (b"GET / HTTP/1.1\r\n", b"", "slow-header"),
        (b"GET / HTTP/1.1\r\na: ", b"x", "slow-header"),
        (b"", b"\r", "no-request"),
        (REQUEST, b"\n", "slow-header"),  # between requests, which uvicorn alone takes for activity
        (POST % 100, b"", "slow-body"),
        (POST % 100_000, b"x", "slow-body"),
        (b"POST /refused?with=401 HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n", b"x", "slow-body"),
    ],
)
async def test_a_peer_that_takes_for_ever_is_ended(begun: bytes, byte: bytes, why: str) -> None:
    async with served() as stage:
        _, writer = await stage.peer()
        writer.write(begun)
        async with asyncio.timeout(10):
            await drip(writer, byte, lambda: stage.limits.cut)
        assert set(stage.limits.cut) == {why}
        writer.transport.abort()


async def test_a_defect_at_one_connection_keeps_no_other_from_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    look_after, broken = LimitedHttp.look_after, list[LimitedHttp]()

    def fails_for_one(connection: LimitedHttp, now_s: float) -> None:
        broken[:] = broken or [connection]
        if connection is broken[0]:
            raise RuntimeError("a defect")
        look_after(connection, now_s)

    monkeypatch.setattr(LimitedHttp, "look_after", fails_for_one)
    async with served() as stage:
        _, first = await stage.peer()
        await until(lambda: broken)
        _, silent = await stage.peer()
        await until(lambda: stage.limits.cut["no-request"] == 1)
        for writer in (first, silent):
            writer.transport.abort()


async def test_a_peer_that_was_answered_before_its_body_came_is_ended_too() -> None:
    async with served() as stage:
        reader, writer = await stage.peer()
        writer.write(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 403")
        writer.write(b"abc")
        await until(lambda: stage.limits.cut["slow-header"])
        writer.transport.abort()


@pytest.mark.parametrize(("begun", "more"), [
    (b"GET /late HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"\r\n"),
    (b"POST /late HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n", b""),
])  # fmt: skip
async def test_who_is_kept_waiting_for_an_answer_is_not_ended(begun: bytes, more: bytes) -> None:
    async with served(PATIENT) as stage:
        reader, writer = await stage.peer()
        writer.write(begun)
        await asyncio.sleep(0.05)
        writer.write(more)
        async with asyncio.timeout(10):
            first = await reader.readuntil(b"\r\n\r\n")
            if b" 100 " in first:
                writer.write(b"ok")
            assert (first + await reader.read()).endswith(b"late")
        assert not stage.limits.cut
        writer.transport.abort()


async def test_a_slow_body_that_keeps_the_least_rate_is_taken() -> None:
    """It takes longer than a body that does not come."""
    async with served(PATIENT) as stage:
        reader, writer = await stage.peer()
        writer.write(POST % 5_000)
        for _ in range(50):
            writer.write(b"x" * 100)
            await asyncio.sleep(0.03)
        async with asyncio.timeout(10):
            assert (await reader.readuntil(b"\r\n")) == b"HTTP/1.1 200 OK\r\n"
        writer.transport.abort()


async def test_a_peer_that_does_not_read_is_ended() -> None:
    async with served() as stage:
        _, writer = await stage.peer()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: stage.limits.cut["slow-reader"])
        writer.transport.abort()


async def test_who_reads_slowly_but_steadily_gets_all_of_a_large_answer() -> None:
    """It takes three times as long as one may read nothing."""
    async with served(PATIENT) as stage:
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        peer.connect(("127.0.0.1", stage.port))
        peer.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=peer, limit=65_536)
        writer.write(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        got_bytes = 0
        async with asyncio.timeout(20):
            while more := await reader.read(262_144):
                got_bytes += len(more)
                await asyncio.sleep(len(more) / 7_000_000)
        assert got_bytes > 20_000_000
        assert not stage.limits.cut
        writer.transport.abort()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\na: " + b"x" * 10_000, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n", b"431"),
        (b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"\x16\x03\x01\x02\x00garbage", b"400"),
        (b"GET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", b"400"),
        (b"GET \xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
    ],
)
async def test_what_is_no_request_of_ours_is_answered_and_closed(sent: bytes, status: bytes) -> None:
    async with served() as stage:
        answer = await stage.answer(sent)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert answer.count(b"HTTP/1.1 ") == 1


CHUNKED = b"POST /fields HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"


async def test_what_comes_behind_a_body_is_no_header() -> None:
    async with served() as stage:
        answer = await stage.answer(CHUNKED + b"x-forwarded-for: 10.66.66.66\r\nauthorization: Bearer t\r\n\r\n")
        assert answer.endswith(b"\r\n\r\nconnection host transfer-encoding")
        await stage.answer(CHUNKED + b"a: b\r\n" * 200 + b"\r\n")
        await stage.answer(CHUNKED + b"a: " + b"x" * 1_000_000)
        assert stage.limits.cut["header-too-large"] == 2


async def test_requests_sent_far_ahead_of_their_answers_are_not_kept() -> None:
    async with served() as stage:
        assert (await stage.answer(REQUEST * 10 + REQUEST[:-2] + b"connection: close\r\n\r\n")).count(b"200 OK") == 11
        await stage.answer(REQUEST * 1_000)
        assert stage.limits.cut["malformed"] == 1


@pytest.mark.parametrize("path", [b"/looking", b"/large-later"])
async def test_whoever_left_is_not_answered_though_more_was_sent_ahead(caplog: pytest.LogCaptureFixture, path: bytes) -> None:
    """uvicorn tells the newest request of a connection alone, and wrote on to nobody for that before it."""
    async with served() as stage:
        _, writer = await stage.peer()
        writer.write(REQUEST.replace(b"/ ", path + b" ") * 3)
        await until(lambda: stage.asked)
        writer.transport.abort()
        stage.may_answer.set()
        await until(lambda: stage.answered)
        assert (await stage.answer(REQUEST[:-2] + b"connection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert stage.asked == 1
        assert stage.left == (path == b"/looking")
    assert not [record.message for record in caplog.records if record.levelno >= logging.WARNING]


async def test_who_is_there_has_not_left() -> None:
    async with served(PATIENT) as stage:
        stage.may_answer.set()
        answer = await stage.answer(REQUEST.replace(b"/ ", b"/looking ") * 2 + REQUEST[:-2] + b"connection: close\r\n\r\n")
        assert answer.count(b"HTTP/1.1 200") == 3
        assert (stage.left, stage.asked) == (0, 2)


async def test_an_offer_to_speak_something_else_is_answered_in_http() -> None:
    async with served() as stage:
        offer = REQUEST[:-2] + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n"
        assert (await stage.answer(offer)).startswith(b"HTTP/1.1 200 OK")


async def test_silent_strangers_do_not_keep_others_out() -> None:
    """More than are attended to, from one address: those who said nothing in their second make room."""
    patient = replace(SHORT, header_timeout_s=60)
    async with served(patient, ListenerLimits(max_strangers=10, max_strangers_per_address=5)) as stage:
        silent = [await stage.peer() for _ in range(30)]
        async with httpx.AsyncClient(timeout=10) as client:
            assert (await client.get(f"http://127.0.0.1:{stage.port}/")).status_code == 200
        assert 5 <= stage.limits.cut["crowded-out"] <= 30  # each once
        for _, writer in silent:
            writer.transport.abort()


async def test_who_waits_for_an_answer_is_not_ended_for_others() -> None:
    patient = replace(SHORT, header_timeout_s=60)
    async with served(patient, ListenerLimits(max_strangers=10, max_strangers_per_address=4)) as stage:
        waiting = asyncio.create_task(stage.answer(b"GET /later HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
        await until(lambda: stage.asked)
        silent = [await stage.peer() for _ in range(9)]
        await until(lambda: stage.limits.cut["crowded-out"])  # of whom none is older
        stage.may_answer.set()
        assert (await waiting).endswith(b"later")
        for _, writer in silent:
            writer.transport.abort()


async def test_whom_the_application_believes_is_no_stranger_while_it_works_on_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "_GRACE_S", 60.0)  # nobody has to make room
    async with served(replace(SHORT, header_timeout_s=60), ListenerLimits(max_strangers=1)) as stage:
        believed = [asyncio.create_task(stage.answer(BELIEVE)) for _ in range(3)]
        await until(lambda: stage.asked == 3)
        assert not stage.limits.cut
        stage.may_answer.set()
        await asyncio.gather(*believed)


async def test_connections_beyond_the_most_of_an_address_are_closed_and_those_that_are_known_stay() -> None:
    async with served(at_the_port=ListenerLimits(max_per_address=3)) as stage, httpx.AsyncClient(timeout=10) as client:
        assert (await client.get(f"http://127.0.0.1:{stage.port}/")).status_code == 200
        others = [await stage.peer() for _ in range(4)]
        await until(lambda: stage.limits.cut["too-many-of-address"] == 2)
        assert (await client.get(f"http://127.0.0.1:{stage.port}/")).status_code == 200
        for _, writer in others:
            writer.transport.abort()


DELAY_S = 0.3  # for each failure beyond those that are free: by far more than an answer takes


@pytest.fixture
def nothing_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a test takes, what failed counts: so the next answer comes no earlier than it has to."""
    monkeypatch.setattr(listener, "_FORGIVEN_A_S", 0.0)
    monkeypatch.setattr(listener, "_DELAY_S", DELAY_S)


@pytest.mark.usefixtures("nothing_forgiven")
@pytest.mark.parametrize("status", [400, 401, 503])
async def test_who_is_refused_again_and_again_waits_longer_and_longer(status: int) -> None:
    async with served() as stage:
        loop = asyncio.get_running_loop()
        taken_s = []
        for _ in range(22):
            began_s = loop.time()
            answer = await stage.answer(b"GET /refused?with=%d HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % status)
            assert answer.startswith(b"HTTP/1.1 %d" % status)
            taken_s.append(loop.time() - began_s)
    assert min(taken_s[:20]) < DELAY_S
    assert taken_s[20] >= DELAY_S
    assert taken_s[21] >= 2 * DELAY_S


@pytest.mark.usefixtures("nothing_forgiven")
async def test_a_caller_who_is_known_waits_where_it_asks_too_much_and_for_nothing_else() -> None:
    async with served() as stage:
        loop = asyncio.get_running_loop()
        reader, writer = await stage.peer()
        writer.write(REQUEST)
        assert b"200" in await reader.readuntil(b"\r\n")
        taken_s = {404: list[float](), 429: list[float]()}
        for status, each in ((404, 30), (429, 22)):
            for _ in range(each):
                began_s = loop.time()
                writer.write(b"GET /refused?with=%d HTTP/1.1\r\nhost: x\r\n\r\n" % status)
                await reader.readuntil(b"HTTP/1.1 %d" % status)
                taken_s[status].append(loop.time() - began_s)
        writer.close()
    assert min(taken_s[404][-5:]) < DELAY_S
    assert taken_s[429][20] >= DELAY_S
    assert taken_s[429][21] >= 2 * DELAY_S


async def test_a_client_certificate_is_shown_to_the_application_only_when_there_is_one() -> None:
    async with served() as stage, httpx.AsyncClient(timeout=10) as client:
        assert (await client.get(f"http://127.0.0.1:{stage.port}/extensions")).json() is None


async def test_nothing_is_left_of_a_lost_connection_before_python_looks_for_cycles() -> None:
    """It looks seldom in our processes, and each connection has large buffers."""
    ours: weakref.WeakSet[LimitedHttp] = weakref.WeakSet()
    looked_after: weakref.WeakSet[LimitedHttp] = weakref.WeakSet()

    class Noted(LimitedHttp):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            ours.add(self)
            super().connection_made(transport)

        def look_after(self, now_s: float) -> None:
            looked_after.add(self)
            super().look_after(now_s)

    gc.collect()
    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cluster.serving, "LimitedHttp", Noted)
            patch.setattr(cluster.serving, "_LOOK_S", 0.01)
            async with served() as stage:
                for sent in (
                    REQUEST[:-2] + b"connection: close\r\n\r\n",
                    b"\x00garbage",
                    b"GET / HTTP/1.1\r\na: " + b"x" * 9_000,
                ):
                    await stage.answer(sent)
                _, writer = await stage.peer()
                writer.write(POST % 100)
                await until(lambda: looked_after)
                writer.transport.abort()
                await until(lambda: not ours)
    finally:
        gc.enable()


async def test_an_application_that_breaks_or_says_nothing_is_answered_for_and_the_connection_ends() -> None:
    async def bare(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                await send({"type": f"{(await receive())['type']}.complete"})
        elif scope["path"] == "/breaks":
            raise RuntimeError("bare")

    async with serving(bare, "127.0.0.1", 0, http=SHORT) as port:
        stage = Stage(port, SHORT)
        for path in (b"/breaks", b"/silent"):
            answer = await stage.answer(b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 500")
            assert answer.endswith(b"Internal Server Error")


async def test_a_socket_is_closed_where_the_application_does_not_start() -> None:
    async def broken(_scope: Any, _receive: Any, _send: Any) -> None:
        raise RuntimeError("no")

    listening = bound("127.0.0.1", 0)
    with pytest.raises(OSError, match="did not start"):
        async with serving_at(listening, broken):
            pass
    assert listening.fileno() == -1
