"""The proxy that disturbs links does what its conditions say, to connections old and new."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.faults.tcp_proxy import TcpProxy


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@pytest.fixture
async def proxy():
    """A proxy before a server that gives back what it is sent."""

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    proxy = TcpProxy(server.sockets[0].getsockname)
    await proxy.start()
    yield proxy
    await proxy.close()
    server.close()
    await server.wait_closed()


class Talk:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def echo(self, data: bytes) -> float:
        """Seconds until `data` is back."""
        began_s = asyncio.get_running_loop().time()
        self.writer.write(data)
        assert await self.reader.readexactly(len(data)) == data
        return asyncio.get_running_loop().time() - began_s


@pytest.fixture
async def talk(proxy):
    opened = await asyncio.open_connection("127.0.0.1", proxy.port)
    yield Talk(*opened)
    opened[1].transport.abort()


async def test_a_clear_link_passes_everything(talk):
    await talk.echo(b"x" * 300_000)


async def test_a_slow_link_delays_both_ways(proxy, talk):
    proxy.disturb("slow")
    assert await talk.echo(b"hello") >= 0.4


async def test_a_narrow_link_takes_its_time(proxy, talk):
    proxy.disturb("narrow")
    assert await talk.echo(b"x" * 6_000) >= 0.55


async def test_a_black_hole_says_nothing_and_delivers_late(proxy, talk):
    proxy.disturb("blackhole")
    waiting = asyncio.create_task(talk.echo(b"hello"))
    done, _ = await asyncio.wait({waiting}, timeout=0.3)
    assert not done
    proxy.heal()
    await waiting


async def test_a_cut_link_ends_and_lets_nobody_in_until_it_is_healed(proxy, talk):
    proxy.disturb("cut")
    with contextlib.suppress(ConnectionError):
        assert await talk.reader.read() == b""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    proxy.heal()
    again = Talk(*await asyncio.open_connection("127.0.0.1", proxy.port))
    await again.echo(b"hello")
    again.writer.transport.abort()


async def test_a_reset_link_is_told_so(proxy, talk):
    await talk.echo(b"hello")
    proxy.disturb("reset")
    with pytest.raises(ConnectionResetError):
        await talk.reader.readexactly(1)


async def test_a_link_whose_far_end_is_away_is_closed():
    proxy = TcpProxy(lambda: ("127.0.0.1", 9))
    await proxy.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    await proxy.close()
