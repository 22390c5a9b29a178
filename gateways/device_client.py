"""A thin MQTT client for devices and gateways, and for our simulators: what is sent is sent until it is acknowledged.

    client = DeviceClient("127.0.0.1", 1883, token)
    await client.connect()
    await client.publish_readings({"metric": "heart_rate", "value": 72, "seq": 1})

Every message goes out at QoS 1 and waits here, in order, until its PUBACK says that it is in the stream. When the
connection is lost the client connects again (waits grow to 5 s) and repeats what was not acknowledged, with DUP set;
give readings a sequence, so that a repetition is told from news. Refusals come to `on_error` as
{"reason", "detail", "topic"}. Messages live in memory only. Clauses 5.4b, 5.4c.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import secrets
import ssl
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

from domain.errors import Unauthenticated, Unavailable
from domain.loopback import is_loopback
from gateways.formats import BY_NAME, ERRORS_TOPIC
from gateways.mqtt import encode, encode_publish
from gateways.mqtt_packets import (
    Ack,
    ConnAck,
    Connect,
    ConnectCode,
    MalformedPacket,
    PacketKind,
    Publish,
    Simple,
    Subscribe,
)
from gateways.mqtt_reader import PacketReader

ErrorHandler = Callable[[dict[str, str]], None]
_CLOSE_S: Final = 2.0
_PING: Final = encode(Simple(PacketKind.PINGREQ))
_GOODBYE: Final = encode(Simple(PacketKind.DISCONNECT))
_KEEP_ALIVE_S: Final = 30
_CONNECT_TIMEOUT_S: Final = 10.0
_FIRST_WAIT_S: Final = 0.1
_LAST_WAIT_S: Final = 5.0
_SUBSCRIBE_ID: Final = 65_535  # kept for it; messages use 1 to 65534
_MAX_ERROR_BYTES: Final = 65_536


class _Message:
    __slots__ = ("acknowledged", "packet_id", "payload", "topic")

    def __init__(self, topic: str, payload: bytes, acknowledged: asyncio.Future[None]) -> None:
        self.topic = topic
        self.payload = payload
        self.acknowledged = acknowledged
        self.packet_id = 0


class DeviceClient:
    """See module. One connection at a time; `reconnects` counts those made after the first was lost.

    `token` None: who it is, is said by the certificate that `tls` shows.
    """

    def __init__(
        self,
        host: str,
        port: int,
        token: str | None,
        *,
        client_id: str | None = None,
        tls: ssl.SSLContext | None = None,
        max_in_flight: int = 64,
        on_error: ErrorHandler | None = None,
    ) -> None:
        self._address = (host, port)
        self._tls = tls
        digest = hashlib.sha256((token or secrets.token_hex(8)).encode()).hexdigest()
        self._hello = Connect(client_id or f"vg-{digest[:16]}", _KEEP_ALIVE_S, username=token)
        self._spread = 0.5 + int(digest[:4], 16) / 2**16  # clients that lost one door do not come back all at once
        self._max_in_flight = max_in_flight
        self._on_error = on_error
        self._link: _Link | None = None
        self._queue: deque[_Message] = deque()
        self._sent: dict[int, _Message] = {}  # in order of sending
        self._last_id = 0
        self._is_wanted = False
        self._reconnecting: asyncio.Task[None] | None = None
        self.reconnects = 0

    @property
    def is_connected(self) -> bool:
        return self._link is not None

    @property
    def unacknowledged(self) -> int:
        """Messages given to this client whose PUBACK has not come."""
        return len(self._queue) + len(self._sent)

    async def connect(self) -> None:
        """Connect, and stay connected until `close` or `disconnect`. Raises Unauthenticated or Unavailable."""
        await self._stop_reconnecting()
        self._is_wanted = True
        if self._link is None:
            try:
                await self._open()
            except (Unauthenticated, Unavailable):
                self._is_wanted = False
                raise

    async def publish_readings(self, readings: list[dict[str, Any]] | dict[str, Any]) -> None:
        """Send readings in the native JSON; returns once they are acknowledged."""
        await self.start(BY_NAME["readings"].topic, msgspec.json.encode(readings))

    async def publish_frame(self, frame: bytes) -> None:
        """Send one binary frame; returns once it is acknowledged."""
        await self.start_frame(frame)

    def start_frame(self, frame: bytes) -> asyncio.Future[None]:
        """Put a frame on its way; the future is done when it is acknowledged."""
        return self.start(BY_NAME["frame"].topic, frame)

    async def disconnect(self) -> None:
        """Drop the connection without a goodbye, as a power failure does, and stay away until `connect`."""
        await self._stop_reconnecting()
        if self._link is not None:
            self._link.abort()
            self._link = None

    async def close(self) -> None:
        """Say goodbye. What was not acknowledged fails with Unavailable."""
        await self._stop_reconnecting()
        link, self._link = self._link, None
        self._fail(Unavailable("the client was closed before its message was acknowledged"))
        if link is not None:
            link.write(_GOODBYE)
            await link.close()

    # ---- sending

    def start(self, topic: str, payload: bytes) -> asyncio.Future[None]:
        """Put a message on its way, in any format of the door; the future is done when it is acknowledged."""
        message = _Message(topic, payload, asyncio.get_running_loop().create_future())
        self._queue.append(message)
        self.pump()
        return message.acknowledged

    def pump(self) -> None:
        """Send what waits, as far as acknowledgements and the peer's reading keep up."""
        link = self._link
        while link is not None and self._queue and len(self._sent) < self._max_in_flight and not link.is_paused:
            message = self._queue.popleft()
            message.packet_id = self._free_id()
            self._sent[message.packet_id] = message
            link.write(encode_publish(message.topic, message.payload, 1, message.packet_id))

    def _free_id(self) -> int:
        while True:
            self._last_id = self._last_id % (_SUBSCRIBE_ID - 1) + 1
            if self._last_id not in self._sent:
                return self._last_id

    def _fail(self, error: Exception) -> None:
        failed = [*self._sent.values(), *self._queue]
        self._sent.clear()
        self._queue.clear()
        for message in failed:
            if not message.acknowledged.done():
                message.acknowledged.set_exception(error)

    # ---- connecting

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        code: asyncio.Future[int] = loop.create_future()
        link = None
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                _, link = await loop.create_connection(lambda: _Link(self, code), *self._address, ssl=self._tls)
                link.write(encode(self._hello))
                answer = await code
        except (TimeoutError, OSError, asyncio.CancelledError) as error:
            if link is not None:
                link.abort()
            if isinstance(error, asyncio.CancelledError):
                raise
            host, port = self._address
            raise Unavailable(f"the door at {host}:{port} does not answer: {error or type(error).__name__}") from error
        if answer != ConnectCode.ACCEPTED or link.is_lost:
            link.abort()
        if answer in (ConnectCode.BAD_CREDENTIALS, ConnectCode.NOT_AUTHORISED):
            raise Unauthenticated(f"the door refused the token (CONNACK {answer})")
        if answer != ConnectCode.ACCEPTED or link.is_lost:
            raise Unavailable(f"the door did not keep the connection (CONNACK {answer})")
        self._begin(link)

    def _begin(self, link: _Link) -> None:
        self._link = link
        if self._on_error is not None:
            link.write(encode(Subscribe(_SUBSCRIBE_ID, ((ERRORS_TOPIC, 0),))))
        for message in self._sent.values():
            link.write(encode_publish(message.topic, message.payload, 1, message.packet_id, dup=True))
        link.keep_alive(_KEEP_ALIVE_S)
        self.pump()

    def lost(self, link: _Link) -> None:
        """The link ended; a client that wants to be connected comes back."""
        if self._link is link:
            self._link = None
            if self._is_wanted:
                self._reconnecting = asyncio.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        wait_s = _FIRST_WAIT_S
        while True:
            await asyncio.sleep(wait_s * self._spread)
            wait_s = min(2 * wait_s, _LAST_WAIT_S)
            try:
                await self._open()
            except Unavailable:
                continue
            except Unauthenticated as error:
                self._is_wanted = False
                self._fail(error)
            else:
                self.reconnects += 1
            self._reconnecting = None
            return

    async def _stop_reconnecting(self) -> None:
        self._is_wanted = False
        task, self._reconnecting = self._reconnecting, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # ---- what the link hears

    def heard(self, packet: object) -> None:
        if type(packet) is Ack and packet.kind is PacketKind.PUBACK:
            message = self._sent.pop(packet.packet_id, None)
            if message is not None and not message.acknowledged.done():
                message.acknowledged.set_result(None)
            self.pump()
        elif type(packet) is Publish and self._on_error is not None:
            with contextlib.suppress(msgspec.DecodeError):
                self._on_error(msgspec.json.decode(packet.payload, type=dict[str, str]))


class _Link(asyncio.Protocol):
    """One connection: bytes to packets, writes of one turn of the loop in one call, pings."""

    def __init__(self, client: DeviceClient, code: asyncio.Future[int]) -> None:
        self._client = client
        self._code = code
        self._loop = asyncio.get_running_loop()
        self._reader = PacketReader(_MAX_ERROR_BYTES, first_kind=PacketKind.CONNACK)
        self._transport: asyncio.Transport | None = None
        self._out = bytearray()
        self._ping: asyncio.TimerHandle | None = None
        self._last_heard_s = self._loop.time()
        self.is_paused = False
        self.is_lost = False
        self._ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none of asyncio's classes

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._ended.set()
        if self._ping is not None:
            self._ping.cancel()
        if not self._code.done():
            self._code.set_exception(exc or ConnectionResetError("the connection was closed before CONNACK"))
        self._client.lost(self)

    def data_received(self, data: bytes) -> None:
        self._last_heard_s = self._loop.time()
        self._reader.feed(data)
        try:
            while (packet := self._reader.next_packet()) is not None:
                if type(packet) is not ConnAck:
                    self._client.heard(packet)
                elif not self._code.done():
                    self._code.set_result(packet.code)
        except MalformedPacket:
            self.abort()

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        self._client.pump()

    def write(self, data: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += data

    async def close(self) -> None:
        """Send what is to be sent, and wait until it has left: TLS ends by a word of both."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await self._ended.wait()
            except TimeoutError:
                self._transport.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def keep_alive(self, every_s: float) -> None:
        """Ping at half the keep-alive; a door silent for longer than one and a half of it is lost."""
        if every_s and self._loop.time() - self._last_heard_s > 1.5 * every_s:
            self.abort()
        elif every_s:
            self.write(_PING)
            self._ping = self._loop.call_later(every_s / 2, self.keep_alive, every_s)

    def _flush(self) -> None:
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(bytes(self._out))
        self._out.clear()


def main(arguments: list[str] | None = None) -> int:
    """Send readings once: `python -m gateways.device_client --token … --reading heart_rate=72`, with `--ca FILE` by TLS;
    with `--cert FILE --key FILE` by a certificate, the token beside it or not.
    """
    parser = argparse.ArgumentParser(prog="python -m gateways.device_client", description="Send readings as a device.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--token")
    parser.add_argument("--cert", metavar="FILE", help="its certificate, as enrolment gave it; takes --ca and --key")
    parser.add_argument("--key", metavar="FILE", help="the key of its certificate")
    parser.add_argument("--ca", metavar="FILE", help="speak TLS with a door whose authority this is, such as var/pki/ca.pem")
    parser.add_argument("--reading", action="append", required=True, metavar="METRIC=VALUE[UNIT]", help="may be repeated")
    given = parser.parse_args(arguments)
    if given.token is None and given.cert is None:
        parser.error("expected --token, or --cert with --key and --ca")
    if given.cert is not None and (given.ca is None or given.key is None):
        parser.error("--cert takes --key and --ca")
    if given.ca is None and not is_loopback(given.host):
        parser.error(f"{given.host} is another machine: expected --ca, a token crosses no network in clear")
    refusals: list[dict[str, str]] = []
    try:
        tls = ssl.create_default_context(cafile=given.ca) if given.ca else None
        if tls is not None and given.cert is not None:
            tls.load_cert_chain(given.cert, given.key)
        client = DeviceClient(given.host, given.port, given.token, tls=tls, on_error=refusals.append)
        asyncio.run(_send(client, [_reading(text) for text in given.reading]))
    except (Unauthenticated, Unavailable, ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for refusal in refusals:
        sys.stderr.write(f"refused ({refusal['reason']}): {refusal['detail']}\n")
    if not refusals:
        sys.stdout.write(f"{len(given.reading)} readings are stored\n")
    return 1 if refusals else 0


async def _send(client: DeviceClient, readings: list[dict[str, Any]]) -> None:
    await client.connect()
    await client.publish_readings(readings)
    await client.close()


def _reading(text: str) -> dict[str, Any]:
    """`heart_rate=72` or `body_temp=98.6[degF]`."""
    metric, equals, rest = text.partition("=")
    value, _, unit = rest.partition("[")
    if not equals:
        raise ValueError(f"{text!r} is no reading: expected METRIC=VALUE, such as heart_rate=72")
    reading: dict[str, Any] = {"metric": metric, "value": float(value)}
    return {**reading, "unit": unit.rstrip("]")} if unit else reading


if __name__ == "__main__":
    sys.exit(main())
