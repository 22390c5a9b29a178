"""HTTP/1.1 as our servers speak it: uvicorn's, with an end to everything that a peer could make last.

Deadlines: for the whole of a request's header, for each stretch of its body (a least rate), for reading what is answered;
between requests uvicorn's own. Limits: a header's size and number of fields, requests sent ahead of their answers.
uvicorn has none of these for its fast parser. A peer that breaks them is answered when that costs nothing, and closed.
Clause 9.1b; RFC 9110 15.5.9 (408), RFC 6585 5 (431).
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.scope_keys import BELIEVED_KEY, GONE_KEY
from gateways.listener import Guest

_NEVER: Final = float("inf")
_ENDED: Final = getattr(select, "POLLRDHUP", select.POLLHUP)  # where there is no such thing, only when both ends are
_PIECE_BYTES: Final = 65_536
_AFTER_ANSWER_BYTES: Final = 2**20  # of a body that nobody reads: the peer may still want to see the answer


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """`is_known(scope, status)`: whether an answer shows that the application believes the peer to be somebody."""

    header_timeout_s: float = 10.0
    body_grace_s: float = 10.0
    body_bytes_a_s: float = 1_024.0
    write_timeout_s: float = 30.0
    max_header_bytes: int = 32_768
    max_header_fields: int = 100
    max_ahead: int = 16  # requests on one connection whose answers are still to come
    is_known: Callable[[Any, int], bool] = lambda _scope, status: status < HTTPStatus.BAD_REQUEST
    cut: Counter[str] = field(default_factory=Counter)  # connections that were ended, by why


class LimitedHttp(HttpToolsProtocol):
    """See module. Who serves calls `look_after` of each connection now and then."""

    def __init__(self, guest: Guest, limits: HttpLimits, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._guest = guest
        self._limits = limits
        self._application = self.app
        self._deadline_s = self.loop.time() + limits.header_timeout_s
        self._has_begun = False
        self._is_header = True  # or what comes before one
        self._header_bytes = 0  # since what is no header, nor of trailers or between chunks
        self._is_too_large = False
        self._is_body = False
        self._trailers = 0  # fields behind the body
        self._unread_bytes = 0
        self._stalled_s = _NEVER  # since when the peer reads nothing of what waits for it
        self._unsent_bytes = 0  # at the last look
        self._tls: dict[str, Any] | None = None
        self._answered: RequestResponseCycle | None = None  # `cycle` is the newest, which may have been sent ahead of it

    # ---- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self._guest.cut = self._crowded_out
        self._guest.is_owed = self._owes_an_answer
        self.app = self._observed
        peer = transport.get_extra_info("ssl_object")
        if peer is not None and (certificate := peer.getpeercert(binary_form=True)):
            self._tls = {"client_cert_chain": [ssl.DER_cert_to_PEM_cert(certificate)]}  # the TLS extension of ASGI

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn keeps it when the connection was reset, and us with it
        self._guest.left()
        self._forget_requests()
        self.pipeline.clear()
        # cycles would keep it, TLS's buffers too, until Python looks for them, and it looks seldom (`runtime.garbage`)
        self.app = self._application
        self.cycle = self.transport = self.flow = self._answered = None  # type: ignore[assignment]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _forget_requests(self) -> None:
        """Of a connection that is lost uvicorn tells the newest request alone: that before it would write on, to nobody."""
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()

    def _has_left(self) -> bool:
        """Whether nobody waits for the answer. A connection is not read while requests wait on it: its end is not seen."""
        if not self._is_lost() and _is_ended(self.transport):
            self.transport.abort()
        if is_lost := self._is_lost():
            self._forget_requests()  # what is not begun then is no defect
        return is_lost

    def on_response_complete(self) -> None:
        if cast("asyncio.Transport | None", self.transport) is not None:  # lost while the last of the answer was on its way
            super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        self._header_bytes += len(data)
        if self._deadline_s == _NEVER and not self._is_answering():  # while it is, a stray CRLF begins nothing
            self._deadline_s = self.loop.time() + self._limits.header_timeout_s
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # to nothing that we speak: the request is answered as it is, and no other
            if self.cycle is not None:
                self.cycle.keep_alive = False
        except httptools.HttpParserError:
            if self._is_too_large:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "header-too-large")
            else:
                self._refuse(HTTPStatus.BAD_REQUEST, "malformed")
        else:
            if self._header_bytes > self._limits.max_header_bytes:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "header-too-large")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled_s = _NEVER

    def look_after(self, now_s: float) -> None:
        """End the connection when the peer has taken too long for something."""
        if now_s > self._deadline_s:
            if self._is_body:
                self._cut("slow-body")
            elif not self._has_begun:
                self._cut("no-request")
            else:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, "slow-header")
            return
        unsent_bytes, before_bytes = self.transport.get_write_buffer_size(), self._unsent_bytes
        self._unsent_bytes = unsent_bytes
        if not unsent_bytes:
            self._stalled_s = _NEVER
        elif self._stalled_s == _NEVER or unsent_bytes < before_bytes:
            self._stalled_s = now_s
        elif now_s - self._stalled_s > self._limits.write_timeout_s:
            self._cut("slow-reader")

    # ---- the parser's side

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._has_begun = True
        self._is_header, self._trailers = True, 0
        self._deadline_s = self.loop.time() + self._limits.header_timeout_s
        if self._tls is not None:
            self.scope["extensions"] = cast("dict[str, dict[object, object]]", {"tls": self._tls})

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._check_header(len(self.url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_body:  # a trailer, which is no header (RFC 9110 6.5.1): no proxy has looked at it, and we need none
            self._trailers += 1
        else:
            super().on_header(name, value)
        self._check_header(len(name) + len(value))

    def _check_header(self, size_bytes: int) -> None:
        limits = self._limits
        if size_bytes > limits.max_header_bytes or len(self.headers) + self._trailers > limits.max_header_fields:
            self._is_too_large = True
            raise ValueError("the header is too large")  # the parser stops, and says that its callback failed

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= self._limits.max_ahead:
            raise ValueError("too many requests are sent ahead of their answers")
        super().on_headers_complete()
        self._is_header, self._header_bytes = False, 0
        self._is_body, self._unread_bytes = True, 0
        # until answers to those before are sent, or the application wants the body
        is_kept_waiting = self.flow.read_paused or self.expect_100_continue
        self._deadline_s = _NEVER if is_kept_waiting else self.loop.time() + self._limits.body_grace_s

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._header_bytes = 0
        gained_s = len(body) / self._limits.body_bytes_a_s
        self._deadline_s = min(self._deadline_s + gained_s, self.loop.time() + self._limits.body_grace_s)
        if self.cycle.response_complete:
            self._unread_bytes += len(body)
            if self._unread_bytes > _AFTER_ANSWER_BYTES:
                self._cut("unwanted-body")
        elif self.flow.read_paused:
            self._deadline_s = _NEVER  # it is kept waiting

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_header, self._is_body, self._header_bytes = True, False, 0
        if self.cycle.response_complete:  # before the body was there: nothing else would end the silence that follows
            self._deadline_s = self.loop.time() + self._limits.header_timeout_s
        else:
            self._deadline_s = _NEVER

    # ---- what is answered

    async def _observed(self, scope: Any, receive: Any, send: Any) -> None:
        """The application; of a stranger, what it is answered shows whether it is one any more.

        Who is refused many times is answered late: a stranger whatever the refusal is, a login that found no room too;
        a caller who is known where it asked for too much.
        """
        send = self._in_pieces(send)
        scope[BELIEVED_KEY] = self._guest.known
        scope[GONE_KEY] = self._has_left

        async def judged(message: Any) -> None:
            if message["type"] == "http.response.start":
                if self._limits.is_known(scope, message["status"]):
                    self._guest.known()
                if message["status"] == HTTPStatus.TOO_MANY_REQUESTS or self._is_strangers(message["status"]):
                    await self._guest.delay()
            await send(message)

        try:
            await self._application(scope, self._received(receive), judged)
        finally:
            method = scope["method"]
            scope.clear()  # the frameworks above keep ways back to us in it: each would be a cycle, with its buffers
            scope["method"] = method  # of it an answer that was never begun is made

    def _in_pieces(self, send: Any) -> Any:
        """`send`, of large bodies piece by piece: uvicorn waits between two until the peer has read enough.

        One large write would be seen to move only when all of it is read. What nobody gets any more is not written.
        """

        async def sent(message: Any) -> None:
            if len(message.get("body", b"")) > _PIECE_BYTES:
                body = memoryview(message["body"])
                while len(body) > _PIECE_BYTES:
                    await written({"type": message["type"], "body": body[:_PIECE_BYTES], "more_body": True})
                    body = body[_PIECE_BYTES:]
                message = {**message, "body": body}
            await written(message)

        async def written(message: Any) -> None:
            if self._is_lost():
                self._forget_requests()
            await send(message)

        return sent

    def _is_lost(self) -> bool:
        transport = cast("asyncio.Transport | None", self.transport)
        return transport is None or transport.is_closing()

    def _is_strangers(self, status: int) -> bool:
        return status >= HTTPStatus.BAD_REQUEST and not self._guest.is_known

    def _received(self, receive: Any) -> Any:
        """`receive`, that lets the peer have its time for the body anew once it was kept waiting."""

        async def received() -> Any:
            if self._is_body and self._deadline_s == _NEVER:
                self._deadline_s = self.loop.time() + self._limits.body_grace_s
            return await receive()

        return received

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        """Answer what cannot be a request of ours and close; in the middle of another answer, just close."""
        if not self._guest.is_known:
            self._guest.failed()
        if self._is_answering():
            self._cut(why)
            return
        self._limits.cut[why] += 1
        self._deadline_s = _NEVER
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % (status, status.phrase.encode())
        )
        self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _owes_an_answer(self) -> bool:
        """Whether the peer has said all that it can, and we nothing yet."""
        return self._is_answering() and not self.cycle.more_body and not self.cycle.response_started

    def _crowded_out(self) -> None:
        self._deadline_s = _NEVER
        self.transport.abort()  # the listener has counted it

    def _cut(self, why: str) -> None:
        self._limits.cut[why] += 1
        self._deadline_s = _NEVER
        self.transport.abort()


def _is_ended(transport: asyncio.Transport) -> bool:
    """Whether the peer says nothing more, of a connection that may not be read now."""
    ended = select.poll()
    ended.register(transport.get_extra_info("socket").fileno(), _ENDED)
    return bool(ended.poll(0))
