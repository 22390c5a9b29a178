"""The generator as a process of its own: `python -m scenarios.generator_process`. Orders come by stdin, news by stdout.

It ends when its orders say so or when whoever started it is gone (stdin closes).
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, BinaryIO

import msgspec

from domain.errors import VitalgridError
from runtime.clock import SystemClock
from runtime.priority import go_ahead, share_finely
from scenarios.generator import Generator, close
from scenarios.generator_orders import Failed, Order, Ready, Start, ToGenerator
from scenarios.sources import Sources

MAX_LINE_BYTES = 256 * 2**20  # an order carries the handles and tokens of the whole fleet

_order_decoder = msgspec.json.Decoder(Order)
_line_decoder: msgspec.json.Decoder[ToGenerator] = msgspec.json.Decoder(ToGenerator)


def tell(out: BinaryIO, news: Any) -> None:
    """One line to whoever started us."""
    out.write(msgspec.json.encode(news) + b"\n")
    out.flush()


async def serve(lines: asyncio.StreamReader, out: BinaryIO) -> None:
    """One order from beginning to end; what goes wrong is told as `Failed`."""
    try:
        order = _order_decoder.decode(await lines.readline())
        sources = await asyncio.to_thread(Sources, order.recipes)
        generator = Generator(order, sources, SystemClock().now_us)
        took_s = await generator.connect()
        tell(out, Ready(len(sources.senders), took_s))
        start = _line_decoder.decode(await lines.readline())
        if isinstance(start, Start):
            watch = asyncio.create_task(_until_stop(lines, generator))
            await generator.run(start.start_us, lambda beat: tell(out, beat))
            watch.cancel()
            tell(out, await asyncio.to_thread(generator.done))
        await close(generator)
    except (VitalgridError, msgspec.DecodeError, OSError) as error:
        tell(out, Failed(f"{type(error).__name__}: {error}"))


async def _until_stop(lines: asyncio.StreamReader, generator: Generator) -> None:
    await lines.readline()  # Stop, or end of file: either way the run is over
    generator.stop()


async def _main() -> None:
    go_ahead()  # the world outside does not wait for the platform's processor
    lines = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin.buffer)
    await serve(lines, sys.stdout.buffer)


if __name__ == "__main__":
    import uvloop

    share_finely()
    uvloop.run(_main())
