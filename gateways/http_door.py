"""The HTTP door: readings, frames and events by POST, for devices and platforms that speak HTTP. Clauses 5.4a, 5.4c, 5.4e, 8.1.

    POST /v1/readings                    native JSON            Authorization: Bearer <token>
    POST /v1/frames                      one binary frame       Authorization: Bearer <token>
    POST /v1/events                      one device event       Authorization: Bearer <token>
    POST /api/v1/{token}/telemetry       ThingsBoard's shapes   token in the path
    GET  /v1/receipts/<receipt>          is it still kept?      Authorization: Bearer <token>
    POST /v1/enrolment, /v1/certificate  see `gateways.http_enrolment`

A certificate that was shown in the TLS handshake stands for the token, which may be left out then; one that comes beside
it has to be the same device's.

200 {"accepted": n, "receipt": "<shard>-<sequence>"} comes after the stream's acknowledgement. Errors are RFC 9457
problems; a message refused for what it is (4xx with a reason) is kept among the rejects first. 503 with Retry-After:
nothing is known to be stored, send again. 507 with Retry-After: nothing is stored, there is no room on disk. 429 with
Retry-After: nothing is stored, the sender sends more than it may (`gateways.paces`), or has many bodies under way
(`gateways.bodies`), and goes on then. A request without a good token is refused before its body is read.

`Idempotency-Key`: 1 to 255 printable characters, chosen by the sender for one request. The same key, sender and body
within 24 h give the same answer and store nothing again, also when the first answer was lost or the door restarted;
another body gives 409. A refused request does not use up its key. `runtime.once` states the guarantee and its one gap.
Each answer to a POST bears `X-Request-Id`, by which logs and traces name the request.
Without a key, a repeated request is told by `seq` (JSON) or source and sequence (frames), else by channel, time, value.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from domain.errors import NotFound, RejectedInput, TooManyRequests, Unavailable, VitalgridError
from domain.instants import to_rfc3339
from domain.ports import Clock, Enrolment, Identities, OnceIntake, Receipt, Receipts, Sender
from domain.readings import ReadingBatch
from domain.traces import RequestStamp
from gateways.bodies import Bodies
from gateways.client_certificates import address_of, sender_of
from gateways.counters import DoorCounters
from gateways.door_stamps import DoorStamps
from gateways.formats import ALL_FORMATS, AnyFormat, EventFormat
from gateways.http_enrolment import enrolment_routes
from gateways.keyed import stored_once
from gateways.problems import problem, problem_of
from gateways.watch import Watch

logger = logging.getLogger(__name__)

DOOR: Final = "http"
_KEY_CHARS: Final = 255
_RECEIPT: Final = re.compile(r"(\d{1,4})-(\d{1,18})")
_PATH_TOKEN: Final = "{token}"  # noqa: S105 (a route's parameter)


@dataclass(frozen=True, slots=True)
class _Door:
    identities: Identities
    intake: OnceIntake
    clock: Clock
    receipts: Receipts
    max_payload_bytes: int
    counters: DoorCounters
    watch: Watch
    stamps: DoorStamps
    bodies: Bodies

    def take(self, sender: Sender, address: str, readings: int) -> None:
        """Count what came. Raises TooManyReadings."""
        self.watch.paces.take(sender, readings, DOOR, address, self.counters)


def http_door(
    identities: Identities,
    intake: OnceIntake,
    clock: Clock,
    receipts: Receipts,
    max_payload_bytes: int = 1_048_576,
    *,
    enrolment: Enrolment | None = None,
    watch: Watch | None = None,
) -> Starlette:
    """The door as an ASGI application; `app.state.counters` are its `DoorCounters`, `app.state.stamps` its `DoorStamps`.

    Serve it without access logs: ThingsBoard's path carries the token. `watch` is started and closed by whoever gives it.
    Without `enrolment` nobody is enrolled.
    """
    watch = watch or Watch(intake, clock)
    door = _Door(identities, intake, clock, receipts, max_payload_bytes, DoorCounters(), watch, DoorStamps(DOOR), Bodies())
    routes = [Route(row.path, partial(_post, door, row), methods=["POST"]) for row in ALL_FORMATS]
    routes.append(Route("/v1/receipts/{receipt}", partial(_receipt, door), methods=["GET"]))
    if enrolment is not None:
        routes += enrolment_routes(identities, enrolment, door.counters, door.take, door.bodies)
    app = Starlette(routes=routes, exception_handlers={HTTPException: _on_http_exception})
    app.state.counters, app.state.stamps = door.counters, door.stamps
    return app


async def _post(door: _Door, row: AnyFormat, request: Request) -> Response:
    """One message, under an id of its own."""
    request_id = door.stamps.next_id()
    response = await _taken(door, row, request, request_id)
    response.headers["x-request-id"] = request_id
    return response


async def _taken(door: _Door, row: AnyFormat, request: Request, request_id: str) -> Response:
    """One message: who, how large, of which type, what it says; then stored, and only then answered."""
    counters, received_us = door.counters, door.clock.now_us()
    try:
        sender = await _sender(door, row, request)
    except VitalgridError as error:
        counters.connections_refused[error.code] += 1
        logger.info("a request was refused", extra={"why": error.code, "path": row.path, "request": request_id})
        return problem_of(error)
    counters.messages += 1
    software, address = request.headers.get("user-agent", ""), address_of(request)
    door.watch.used(sender, DOOR, address)
    door.watch.sightings.note(sender, DOOR, address, software, over_tls=request.scope.get("scheme") == "https")
    body = b""
    try:
        door.take(sender, address, 0)
        if not door.intake.allowance(sender):
            raise Unavailable("more readings wait to be stored than the door can hold: send again later")
        with door.bodies.one_of(sender):
            body, size_bytes = await _body(request, door.max_payload_bytes)
        counters.bytes_received += size_bytes
        _check_envelope(row, request, size_bytes, door.max_payload_bytes)
        receipt = await _stored(door, row, sender, address, body, _key(request))
    except ClientDisconnect:
        return Response(status_code=400)  # nobody is there to read it; nothing was stored
    except RejectedInput as error:
        door.watch.paces.of(sender).left -= 1
        door.watch.refused(sender, DOOR, address, error.reason, error.detail)
        return await _rejected(door, row, sender, body, error, request_id)
    except VitalgridError as error:
        counters.unavailable += isinstance(error, Unavailable) and not isinstance(error, TooManyRequests)  # of others
        return problem_of(error)
    counters.readings += receipt.readings
    door.watch.stored(sender, DOOR, address, receipt)
    door.stamps.stored(RequestStamp(
        receipt.stream_sequence, sender.handle, request_id, row.path, size_bytes, received_us, door.clock.now_us(),
        address or None,
    ))  # fmt: skip
    accepted = 1 if isinstance(row, EventFormat) else receipt.readings
    answer = {"accepted": accepted, "receipt": f"{receipt.shard}-{receipt.stream_sequence}"}
    return Response(msgspec.json.encode(answer), media_type="application/json")


async def _receipt(door: _Door, request: Request) -> Response:
    """What became of a receipt that this very device or gateway was given."""
    text = request.path_params["receipt"]
    try:
        sender = await sender_of(door.identities, request)
        door.take(sender, address_of(request), 1)
        found = _RECEIPT.fullmatch(text)
        if found is None:
            raise NotFound(f"{text[:40]!r} is no receipt: expected <shard>-<sequence> as an answer gave it")
        state = await door.receipts.look_up(sender, int(found[1]), int(found[2]))
    except VitalgridError as error:
        return problem_of(error)
    stored = None if state.stored_us is None else to_rfc3339(state.stored_us)
    answer = {"receipt": text, "kept_in": state.kept_in, "stored": stored, "readings": state.readings}
    return Response(msgspec.json.encode(answer), media_type="application/json")


async def _sender(door: _Door, row: AnyFormat, request: Request) -> Sender:
    token = request.path_params["token"] if _PATH_TOKEN in row.path else None
    return await sender_of(door.identities, request, token)


async def _body(request: Request, limit_bytes: int) -> tuple[bytes, int]:
    """The body, at most its first `limit_bytes`, and the size of all that was read: reading stops when it is too large."""
    kept = bytearray()
    size_bytes = 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        kept += chunk[: limit_bytes - len(kept)]
        if size_bytes > limit_bytes:
            break
    return bytes(kept), size_bytes


def _check_envelope(row: AnyFormat, request: Request, size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise RejectedInput("oversize", f"the body is larger than the {limit_bytes} bytes that are taken")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise RejectedInput("wrong-content-encoding", f"content encoding {encoding[:40]!r} is not taken: expected none")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != row.media_type:
        raise RejectedInput(
            "wrong-content-type", f"content type {media_type[:80]!r} is not taken here: expected {row.media_type!r}"
        )


def _key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= _KEY_CHARS and key.isprintable()):
        raise RejectedInput("malformed-key", f"Idempotency-Key is not 1 to {_KEY_CHARS} printable characters")
    return key


async def _stored(door: _Door, row: AnyFormat, sender: Sender, address: str, body: bytes, key: str | None) -> Receipt:
    """Decode, count and store. Requests that came together are counted here: who asks by many at once gains nothing."""
    now_us = door.clock.now_us()
    content = row.decode(body, sender, now_us)
    door.take(sender, address, len(content) if isinstance(content, ReadingBatch) else 1)
    if key is not None:
        return await stored_once(door.intake, row, sender, body, content, key)
    if isinstance(content, ReadingBatch):
        return await door.intake.submit(sender, content, now_us)
    return await door.intake.submit_event(sender, content)


async def _rejected(
    door: _Door, row: AnyFormat, sender: Sender, body: bytes, error: RejectedInput, request_id: str
) -> Response:  # fmt: skip
    door.counters.rejects[error.reason] += 1
    logger.info("a message was refused", extra={"device": sender.name, "reason": error.reason, "request": request_id})
    try:
        await door.intake.reject(
            door=DOOR, sender=sender, topic=row.path, payload=body, reason=error.reason, detail=error.detail
        )
    except VitalgridError as unavailable:
        return problem_of(unavailable)
    return problem_of(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Paths and methods that do not exist."""
    assert isinstance(error, HTTPException)
    paths = ", ".join(row.path for row in ALL_FORMATS)
    code = "method-not-allowed" if error.status_code == 405 else "not-found"
    detail = f"{request.method} is not answered at this path: expected POST to one of {paths}"
    return problem(405 if error.status_code == 405 else 404, code, detail, dict(error.headers or {}))
