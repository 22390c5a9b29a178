"""Live alarms for programs of hospitals, over the bus: `GET /live/alarms`, asked by a message and answered by messages.

A program asks through the application itself, with its token: who it is, what it may see, that it is noted in the access
log, and that the stream ends with the token, are the same as over HTTP. Each event is one message on a subject that this
program alone may hear, and has a number; the bus tells nobody that it is not there or has lost something, so the program says
again from time to time that it is, and up to which number it has heard them all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from hmac import compare_digest
from typing import Any, Final

import msgspec
from starlette.types import ASGIApp, Message

from api.live.subscription import sse
from api.services import Backend
from domain.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    TooManyAttempts,
    Unauthenticated,
    Unavailable,
    VitalgridError,
)
from domain.hospital_systems import (
    ASKED,
    LEASE_S,
    NUMBER_HEADER,
    AlarmsAsked,
    AlarmsGranted,
    asked_by,
    decode_asked,
    heard_by,
)
from domain.instants import US_PER_S
from runtime.buckets import Buckets
from runtime.bus import Bus
from runtime.sql.bus_certificates import check_shown
from runtime.tasks import end
from runtime.tokens import token_digest

logger = logging.getLogger(__name__)

_PATH: Final = "/api/v1/live/alarms"
_END: Final = sse("end", b"{}")
_LAST: Final = b"event: end\n"
_BEGIN_S: Final = 10.0
_LOOK_S: Final = 1.0
_BYTES_A_S = 2**20  # of a stream: what a program does not read waits in nats-server's memory, for ten seconds
_SAY_S: Final = 60.0  # how often it is logged that a program asks too often
_BURST: Final = 20  # questions of a certificate, and one a second: more are not answered
_REFUSALS: Final[dict[int, type[VitalgridError]]] = {
    401: Unauthenticated, 403: Forbidden, 404: NotFound, 422: InvalidInput, 429: TooManyAttempts
}  # fmt: skip


class _Stream:
    """One request to the application that goes on: the ASGI server's side of it."""

    def __init__(self, bus: Bus, subject: str, until_s: float, token_digest: str) -> None:
        self._bus = bus
        self._subject = subject
        self.until_s = until_s
        self.token_digest = token_digest  # of the token that it was asked for with
        self._sent = 0
        self._sent_before = 0  # when it was answered last: all of that has come before this answer
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.refusal = bytearray()
        self._is_asked = False
        self._is_ended = False  # its own last event says so
        self._gone = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def has_been_heard(self, up_to: int) -> bool:
        """Whether nothing is lost that had to be there when this question was asked."""
        return self._sent_before <= up_to <= self._sent

    def is_answered(self, until_s: float) -> None:
        """It is sent alarms until then, unless it asks again."""
        self.until_s, self._sent_before = until_s, self._sent

    async def _say(self, event: bytes) -> None:
        self._sent += 1
        await self._bus.core_publish(self._subject, event, {NUMBER_HEADER: str(self._sent)})

    def leave(self) -> None:
        """For the application the client is gone."""
        self._gone.set()

    async def say_end(self) -> None:
        """Tell who hears it that nothing more comes, if anything did. What the bus does not take is said in the log."""
        if self.status.done() and self.status.result() < 400 and not self._is_ended:
            try:
                await self._say(_END)
            except Exception as error:  # noqa: BLE001 (whatever ails the bus: other streams are to be told, and it hears no more)
                logger.warning("a program is not told that its alarms end: %s", error, extra={"subject": self._subject})

    async def receive(self) -> Message:
        if not self._is_asked:
            self._is_asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status.set_result(int(message["status"]))
            return
        body = message.get("body", b"")
        if self.status.result() >= 400:
            self.refusal += body
            return
        for event in body.split(b"\n\n"):
            if event:
                self._is_ended = event.startswith(_LAST)
                await self._say(event + b"\n\n")
                await asyncio.sleep(len(event) / _BYTES_A_S)


class HospitalStreams:
    """Answers programs of hospitals for as long as `run` is awaited. One stream a certificate."""

    def __init__(self, app: ASGIApp, backend: Backend) -> None:
        self._app = app
        self._backend = backend
        self._streams: dict[int, _Stream] = {}
        self._asking: set[int] = set()
        self._bus = backend.services.hospitals_bus or backend.services.bus
        self._questions = Buckets(backend.services.clock.now_us, _BURST, US_PER_S)
        self._unanswered: Counter[str] = Counter()

    async def run(self) -> None:
        """Answer for ever."""
        unsubscribe = await self._bus.answer(ASKED, self.answer, self._admits)
        said_s = 0.0
        try:
            while True:
                await asyncio.sleep(_LOOK_S)
                now_s = asyncio.get_running_loop().time()
                if self._unanswered and now_s >= said_s + _SAY_S:
                    said_s = now_s
                    self._say_unanswered()
                for stream in [one for one in self._streams.values() if one.until_s <= now_s]:
                    stream.leave()
        finally:
            await unsubscribe()
            streams = list(self._streams.values())
            await end(*(stream.task for stream in streams if stream.task is not None))
            for stream in streams:
                await stream.say_end()

    def _admits(self, subject: str) -> bool:
        if not self._questions.take(subject):
            return True
        self._unanswered[subject] += 1
        return False

    def _say_unanswered(self) -> None:
        for subject, count in self._unanswered.items():
            logger.warning("a program asks too often: not all is answered", extra={"subject": subject, "unanswered": count})
        self._unanswered.clear()

    async def answer(self, payload: bytes, subject: str) -> bytes:
        """Begin a stream, or go on with it. Raises as the route answers; Conflict when there is none to go on with."""
        hospital_id, number = asked_by(subject)
        if number in self._asking:
            raise TooManyAttempts("a question of yours is being answered: wait for that")
        self._asking.add(number)
        try:
            asked = decode_asked(payload)
            await self._check_shown(hospital_id, number, asked)
            await self._begin_or_go_on(hospital_id, number, asked)
        finally:
            self._asking.discard(number)
        return msgspec.json.encode(AlarmsGranted(LEASE_S))

    async def _check_shown(self, hospital_id: str, number: int, asked: AlarmsAsked) -> None:
        """While the database is away who hears alarms already goes on, as over HTTP: nothing is known against them."""
        now_us = self._backend.services.clock.now_us()
        try:
            await self._backend.read(check_shown, self._backend.engine, number, hospital_id, asked.token, now_us=now_us)
        except Unauthenticated:
            logger.warning(
                "a program showed another token than its own", extra={"certificate": number, "hospital": hospital_id}
            )
            raise
        except Unavailable:
            stream = None if asked.goes_on is None else self._streams.get(number)
            if stream is None or not compare_digest(stream.token_digest, token_digest(asked.token)):
                raise

    async def _begin_or_go_on(self, hospital_id: str, number: int, asked: AlarmsAsked) -> None:
        before, until_s = self._streams.get(number), asyncio.get_running_loop().time() + LEASE_S
        if asked.goes_on is not None:
            if before is None or not before.has_been_heard(asked.goes_on):
                what = "no alarms are being sent to you" if before is None else "a message to you was lost"
                raise Conflict(f"{what}: ask for alarms anew, with the last that you have seen as 'after'")
            before.is_answered(until_s)
            return
        if before is not None and before.task is not None:
            await end(before.task)
        stream = _Stream(self._bus, heard_by(hospital_id, number), until_s, token_digest(asked.token))
        stream.task = asyncio.create_task(self._served(number, stream, _scope(number, asked)), name="alarms for a hospital")
        self._streams[number] = stream
        either: set[asyncio.Future[Any]] = {stream.task, stream.status}
        await asyncio.wait(either, timeout=_BEGIN_S, return_when=asyncio.FIRST_COMPLETED)
        if not stream.status.done():
            await end(stream.task)
            raise Unavailable("alarms cannot be sent now: ask again")
        if (status := stream.status.result()) >= 400:
            await asyncio.wait({stream.task})
            raise _REFUSALS.get(status, Unavailable)(_detail(bytes(stream.refusal)))

    async def _served(self, number: int, stream: _Stream, scope: dict[str, Any]) -> None:
        try:
            await self._app(scope, stream.receive, stream.send)
        except Exception:  # as a server does: the trace is in the log, and the client is told that it is over
            logger.exception("a live stream over the bus broke", extra={"certificate": number})
        finally:
            if self._streams.get(number) is stream:
                del self._streams[number]
        await stream.say_end()


def _scope(number: int, asked: AlarmsAsked) -> dict[str, Any]:
    """The request as a server would tell it to the application. Its address, for limits and the log, is the certificate."""
    headers = [(b"host", b"bus"), (b"authorization", f"Bearer {asked.token}".encode())]
    if asked.after is not None:
        headers.append((b"last-event-id", b"%d" % asked.after))
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
        "scheme": "https", "path": _PATH, "raw_path": _PATH.encode(), "query_string": b"", "root_path": "",
        "headers": headers, "client": (f"bus certificate {number}", 0), "server": ("bus", 0),
    }  # fmt: skip


def _detail(problem: bytes) -> str:
    try:
        return str(msgspec.json.decode(problem)["detail"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "the platform refused, and did not say why"
