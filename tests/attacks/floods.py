"""What attackers do: each a coroutine that keeps on until it is cancelled. Run in a process of its own (`main`).

They come from addresses of their own (127.0.0.2 and on), as attackers do, unless told to share the honest one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict
from typing import Any, Final

from gateways.mqtt import encode, encode_publish
from gateways.mqtt_packets import Connect, PacketKind, Simple
from tests.attacks.attacker import SPACE_S, Attacker, Target, guess, request

_PINGS: Final = encode(Simple(PacketKind.PINGREQ)) * 20_000
_DEEP: Final = b"[" * 100_000 + b"]" * 100_000
_BOMB: Final = gzip.compress(b"0" * 50_000_000)


async def slow_headers(by: Attacker) -> None:
    ports = (by.target.api, by.target.http)
    await by.often(by.target.connections, lambda n: by.hold(ports[n % 2], b"GET / HTTP/1.1\r\na: ", b"x"))


async def slow_bodies(by: Attacker) -> None:
    begun = (
        b"POST /login HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: 9999\r\n\r\n"
    )
    await by.often(by.target.connections, lambda _: by.hold(by.target.api, begun, b"x"))


async def slow_reads(by: Attacker) -> None:
    """Large answers are asked for and not read."""
    asked = request("GET", "/openapi.json", by.target.users_token)

    async def once(_: int) -> None:
        _, writer = await by.open(by.target.api)
        writer.transport.pause_reading()
        try:
            for _ in range(240):
                writer.write(asked)
                await writer.drain()
                await asyncio.sleep(SPACE_S)
                if writer.transport.is_closing():
                    raise EOFError
        finally:
            writer.transport.abort()

    await by.often(by.target.connections, once)


async def connections(by: Attacker) -> None:
    """As many as can be made, on every port, silent."""
    ports = (by.target.api, by.target.http, by.target.mqtt)

    async def once(number: int) -> None:
        reader, writer = await by.open(ports[number % 3], plain=True)
        try:
            async with asyncio.timeout(random.uniform(0.1, 4.0)):
                await reader.read(1)
            raise EOFError
        finally:
            writer.transport.abort()

    await by.often(4 * by.target.connections, once)


async def handshakes(by: Attacker) -> None:
    """Hands are shaken and nothing is said, or half of it."""
    ports = (by.target.api, by.target.http, by.target.mqtt)

    async def once(number: int) -> None:
        if number % 2:
            await by.hold(ports[number % 3], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"", plain=True)
        else:
            _, writer = await by.open(ports[number % 3])
            writer.transport.abort()

    await by.often(by.target.busy, once)


async def mqtt_connects(by: Attacker) -> None:
    async def once(number: int) -> None:
        reader, writer = await by.open(by.target.mqtt)
        try:
            writer.write(encode(Connect(f"attacker-{number}", username=guess())))
            answer = await reader.read(4)
            by.seen["refused" if answer else "cut"] += 1
        finally:
            writer.transport.abort()

    await by.often(by.target.connections, once)


async def mqtt_silence(by: Attacker) -> None:
    await by.often(by.target.connections, lambda _: by.hold(by.target.mqtt, b"\x10\x7f\x00\x04MQ", b""))


async def wrong_tokens(by: Attacker) -> None:
    async def once(number: int) -> None:
        if number % 2:
            await by.ask(by.target.api, request("GET", "/api/v1/devices", guess()))
        else:
            await by.ask(by.target.http, request("POST", "/v1/readings", guess(), b"{}"))

    await by.often(by.target.busy, once)


async def logins(by: Attacker) -> None:
    async def once(number: int) -> None:
        form = f"grant_type=password&username=user-{number}&password={guess()}".encode()
        kind = "application/x-www-form-urlencoded"
        await by.ask(by.target.api, request("POST", "/oauth/token", "", form, content_type=kind))

    await by.often(by.target.busy, once)


async def oversize(by: Attacker) -> None:
    async def once(number: int) -> None:
        target = by.target
        if number % 4 == 0:
            await by.ask(target.api, b"GET / HTTP/1.1\r\na: " + b"x" * 200_000)
        elif number % 4 == 1:
            await by.ask(target.api, request("POST", "/api/v1/hospitals", target.users_token, b" " * 3_000_000))
        elif number % 4 == 2:
            kind = "application/json"
            await by.ask(
                target.http, request("POST", "/v1/readings", target.devices_token, b" " * 2_000_000, content_type=kind)
            )
        else:
            await _published(by, "v1/devices/me/readings", b" " * 2_000_000)

    await by.often(min(8, by.target.busy), once)


async def garbage(by: Attacker) -> None:
    ports = (by.target.api, by.target.http, by.target.mqtt)

    async def once(number: int) -> None:
        reader, writer = await by.open(ports[number % 3], plain=number % 2 == 0)
        try:
            writer.write(os.urandom(2_000))
            await writer.drain()
            async with asyncio.timeout(5):
                await reader.read()
            raise EOFError
        finally:
            writer.transport.abort()

    await by.often(by.target.busy, once)


async def bombs(by: Attacker) -> None:
    """JSON of 100,000 levels, and what unpacks to 50 MB, at every place that takes JSON."""
    target, kind = by.target, "application/json"
    asks = (
        lambda: by.ask(target.api, request("POST", "/api/v1/hospitals", target.users_token, _DEEP, content_type=kind)),
        lambda: by.ask(
            target.api, request("POST", "/api/v1/patients", target.users_token, b'{"a":' * 9_999, content_type=kind)
        ),
        lambda: by.ask(target.http, request("POST", "/v1/readings", target.devices_token, _DEEP, content_type=kind)),
        lambda: by.ask(target.http, request("POST", f"/api/v1/{target.devices_token}/telemetry", "", _DEEP, content_type=kind)),
        lambda: by.ask(
            target.api,
            request("POST", "/api/v1/hospitals", target.users_token, _BOMB, content_type=kind, content_encoding="gzip"),
        ),
        lambda: by.ask(
            target.http,
            request("POST", "/v1/readings", target.devices_token, _BOMB, content_type=kind, content_encoding="gzip"),
        ),
        lambda: _published(by, "v1/devices/me/telemetry", _DEEP),
        lambda: _published(by, "v1/devices/me/frames", _BOMB),
    )
    await by.often(len(asks), lambda number: asks[number]())


async def complex_questions(by: Attacker) -> None:
    """The dearest questions there are, none twice, with a token that may ask them."""

    async def once(_: int) -> None:
        path = random.choice(
            (f"/aggregates/fleet?bucket_s={random.randrange(600, 9_999)}", f"/readings/search?above={random.random():.6f}")
        )
        await by.ask(by.target.api, request("GET", f"/api/v1{path}", by.target.users_token))

    await by.often(2 * by.target.busy, once)


async def simple_questions(by: Attacker) -> None:
    """What honest screens ask too, again as soon as it is answered, on connections that stay."""
    device = by.target.device
    paths = (f"/devices/{device}", f"/readings?device={device}&metric=heart_rate&limit=50&descending=true")

    async def once(number: int) -> None:
        reader, writer = await by.open(by.target.api)
        try:
            while True:
                writer.write(request("GET", f"/api/v1{paths[number % 2]}", by.target.users_token))
                await by.status(reader)
                header = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(header.partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
        finally:
            writer.transport.abort()

    await by.often(by.target.busy, once)


async def live_streams(by: Attacker) -> None:
    """As many live streams as one token gets, held open and read; whoever is refused asks again."""
    asked = request("GET", "/api/v1/live/alarms", by.target.users_token)

    async def once(_: int) -> None:
        reader, writer = await by.open(by.target.api)
        try:
            writer.write(asked)
            if await by.status(reader) == "200":
                while await reader.read(65_536):
                    pass
                raise EOFError
        finally:
            writer.transport.abort()

    await by.often(by.target.connections, once)


async def catch_ups(by: Attacker) -> None:
    """Live streams that begin with all there is, again and again: half of them read a little and leave, half never read."""
    paths = ("/api/v1/live/alarms?after=0", f"/api/v1/live/readings?after=0&device={by.target.device}")

    async def once(number: int) -> None:
        reader, writer = await by.open(by.target.api)
        try:
            writer.write(request("GET", paths[number % 2], by.target.users_token))
            if await by.status(reader) == "200":
                if number % 4 < 2:
                    writer.transport.pause_reading()
                    await asyncio.sleep(4 * SPACE_S)
                else:
                    await reader.read(65_536)
        finally:
            writer.transport.abort()

    await by.often(2 * by.target.busy, once)


async def good_readings(by: Attacker) -> None:
    """Good readings of a device that may speak, as fast as they are taken: over MQTT unasked for its answers, and by HTTP."""
    lists = [_good(number) for number in range(4)]

    async def once(number: int) -> None:
        if number == 0:
            await _streamed(by, itertools.cycle(lists))
        else:
            kind = "application/json"
            sent = request("POST", "/v1/readings", by.target.devices_token, lists[number % 4], content_type=kind)
            await by.ask(by.target.http, sent)

    await by.often(min(8, by.target.busy), once)


def _good(number: int, readings: int = 500) -> bytes:
    return json.dumps([{"metric": "heart_rate", "value": 60 + (number + n) % 40} for n in range(readings)]).encode()


async def _streamed(by: Attacker, payloads: Iterator[bytes]) -> None:
    """One connection that publishes on and on, whether it is read or not."""
    reader, writer = await by.open(by.target.mqtt)
    answers = asyncio.create_task(_counted(by, reader))
    try:
        writer.write(encode(Connect("flooder", username=by.target.devices_token)))
        for number, payload in enumerate(payloads):
            writer.write(encode_publish("v1/devices/me/readings", payload, qos=1, packet_id=1 + number % 65_535))
            await writer.drain()
    finally:
        answers.cancel()
        writer.transport.abort()


async def pings(by: Attacker) -> None:
    """Pings by a device that may speak, as fast as they are taken, and whatever is answered."""

    async def once(_: int) -> None:
        reader, writer = await by.open(by.target.mqtt)
        try:
            writer.write(encode(Connect("pinger", username=by.target.devices_token)))
            while not reader.at_eof():
                writer.write(_PINGS)
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SPACE_S):
                        by.seen["answered"] += len(await reader.read(65_536)) // 2
            raise EOFError
        finally:
            writer.transport.abort()

    await by.often(1, once)


async def _counted(by: Attacker, reader: asyncio.StreamReader) -> None:
    await reader.readexactly(4)
    while await reader.readexactly(4):
        by.seen["acknowledged"] += 1


async def _published(by: Attacker, topic: str, payload: bytes) -> None:
    """A message by a device that may speak, until it is answered."""
    reader, writer = await by.open(by.target.mqtt)
    try:
        writer.write(encode(Connect(f"attacker-{random.random()}", username=by.target.devices_token)))
        await reader.readexactly(4)
        writer.write(encode_publish(topic, payload, qos=1, packet_id=1))
        await writer.drain()
        await reader.readexactly(4)
        by.seen["acknowledged"] += 1
    finally:
        writer.transport.abort()


FLOODS: Final[dict[str, Callable[[Attacker], Coroutine[Any, Any, None]]]] = {
    "slow headers": slow_headers,
    "slow bodies": slow_bodies,
    "slow reads": slow_reads,
    "connections": connections,
    "handshakes": handshakes,
    "MQTT connects": mqtt_connects,
    "MQTT silence": mqtt_silence,
    "wrong tokens": wrong_tokens,
    "logins": logins,
    "oversize": oversize,
    "garbage": garbage,
    "bombs": bombs,
    "complex questions": complex_questions,
    "simple questions": simple_questions,
    "live streams": live_streams,
    "catch-ups": catch_ups,
    "good readings": good_readings,
    "pings": pings,
}


async def attack(names: list[str], target: Target, seconds: float) -> Counter[str]:
    """Those floods at once, for so long."""
    by = Attacker(target)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(FLOODS[name](by) for name in names))
    return by.seen


def command(names: list[str], target: Target, seconds: float) -> list[str]:
    """The process that attacks; it says what it has seen on its standard output."""
    return [sys.executable, "-m", "tests.attacks.floods", json.dumps([names, asdict(target), seconds])]


def main() -> None:
    names, target, seconds = json.loads(sys.argv[1])
    os.nice(5)  # attackers have machines of their own; here they share one with whom they attack
    seen = asyncio.run(attack(names, Target(**target), seconds))
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
