"""Alarm events to one receiver, signed after Standard Webhooks 1.0.

Headers: `webhook-id` (the event's id, the same on every attempt), `webhook-timestamp` (Unix seconds of the attempt),
`webhook-signature` (`v1,` + base64 of HMAC-SHA256 over `id.timestamp.body`). The body is JSON: type, timestamp, data.

Delivery is in order and at least once: the position moves after a 2xx answer, so after a crash, or when an answer is
lost, the same event comes again with the same id, and receivers drop ids they have seen. A receiver that answers 4xx
(but 408, 409, 425, 429) will not take an event at all: it is skipped and logged, because one event must not hold up
all others for ever. Everything else is tried again, later each time, for as long as it takes; a receiver that is away
holds up only itself.

The receiver gets what its place and highest level allow (`api.webhook_scope`), and what it gets is in the access log first:
while accesses cannot be noted, events wait in the stream.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
from typing import Final

import httpx
import msgspec

from api.services import Backend, WebhookTarget
from api.times import UTC_ZONE
from api.webhook_scope import WebhookScope
from domain import subjects
from domain.alarms import INTENDED_USE, AlarmEvent
from domain.errors import AuditUnavailable, InvalidInput
from runtime.follower import StreamMessage
from runtime.sql.alarms import position_of, save_position

logger = logging.getLogger(__name__)

POSITION: Final = "webhook"
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 (not a secret: how one begins)
_TIMEOUT_S: Final = 10.0
_FIRST_RETRY_S: Final = 0.5
_LAST_RETRY_S: Final = 60.0
_QUEUE: Final = 1_000
_TRY_AGAIN: Final = frozenset({408, 409, 425, 429})
_decoder: Final = msgspec.json.Decoder(AlarmEvent)


def signing_key(secret: str) -> bytes:
    """The key of a secret: base64 behind `whsec_`, else the text itself. Raises InvalidInput."""
    if not secret.startswith(_SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise InvalidInput("the webhook's secret begins with 'whsec_' and is not base64 behind it") from None


def sign(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> str:
    """The `webhook-signature` header."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def body_of(event: AlarmEvent, sequence: int) -> bytes:
    """What the receiver gets."""
    return msgspec.json.encode(
        {
            "type": f"alarm.{event.phase.value}",
            "timestamp": UTC_ZONE.text(event.arrival_us),
            "data": {"intended_use": INTENDED_USE, "sequence": sequence, "event": event},
        }
    )


class Webhook:
    """Follows the alarm stream from its own durable position and delivers one event after the other."""

    def __init__(self, backend: Backend, target: WebhookTarget, *, first_retry_s: float = _FIRST_RETRY_S) -> None:
        self._backend = backend
        self._target = target
        self._scope = WebhookScope(backend, target)
        self._key = signing_key(target.secret)
        self._tls = target.trust.context()
        self._first_retry_s = first_retry_s

    async def run(self) -> None:
        """Deliver for ever. On its first start ever it begins with the events from then on."""
        services = self._backend.services
        position = await self._backend.lanes.sql(position_of, services.engine, POSITION)
        if not position:
            position = (await services.bus.stream_state(subjects.ALARMS_STREAM)).last_sequence
            await self._backend.lanes.sql(save_position, services.engine, POSITION, position)
        waiting: asyncio.Queue[StreamMessage] = asyncio.Queue()
        follower = await services.bus.follow(
            subjects.ALARMS_STREAM, list(subjects.ALARMS_SUBJECTS), position + 1, waiting.put_nowait
        )
        try:
            async with httpx.AsyncClient(
                timeout=_TIMEOUT_S, trust_env=False, follow_redirects=False, verify=self._tls
            ) as client:
                while True:
                    message = await waiting.get()
                    (follower.pause if waiting.qsize() > _QUEUE else follower.resume)()
                    await self._deliver(client, message)
                    await self._backend.lanes.sql(save_position, services.engine, POSITION, message.sequence)
        finally:
            await follower.stop()

    async def _deliver(self, client: httpx.AsyncClient, message: StreamMessage) -> None:
        """Try until the receiver takes the event, or says that it never will."""
        try:
            event = _decoder.decode(message.payload)
        except msgspec.DecodeError:
            logger.exception("an alarm event cannot be read", extra={"sequence": message.sequence})
            return
        body = body_of(event, message.sequence)
        delay_s, is_noted = self._first_retry_s, False
        while await self._scope.holds(event):  # each time: they may be withheld by now
            if await self._may_go(event, is_noted=is_noted):
                is_noted = True
                if await self._attempt(client, event.event_id, body):
                    return
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _LAST_RETRY_S)
        self._backend.telemetry.webhook_deliveries.labels("left-out").inc()

    async def _may_go(self, event: AlarmEvent, *, is_noted: bool) -> bool:
        """Note it, the first time; False while that cannot be."""
        try:
            if is_noted:
                self._scope.check_open()
            else:
                await self._scope.note(event)
        except AuditUnavailable as error:
            logger.warning("the webhook waits: %s", error, extra={"event_id": event.event_id})
            return False
        return True

    async def _attempt(self, client: httpx.AsyncClient, event_id: str, body: bytes) -> bool:
        """Whether the event is done with."""
        count = self._backend.telemetry.webhook_deliveries
        timestamp_s = self._backend.services.clock.now_us() // 1_000_000
        headers = {
            "Content-Type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": sign(self._key, event_id, timestamp_s, body),
        }
        try:
            status = (await client.post(self._target.url, content=body, headers=headers)).status_code
        except httpx.HTTPError as error:
            count.labels("unreachable").inc()
            why = f"{type(error).__name__} {error}".rstrip()  # a certificate that is not believed is said there
            logger.warning("the webhook does not answer: %s", why, extra={"event_id": event_id})
            return False
        if 200 <= status < 300:
            count.labels("delivered").inc()
            return True
        is_final = 400 <= status < 500 and status not in _TRY_AGAIN
        count.labels("refused" if is_final else "failed").inc()
        logger.warning("the webhook answered %d", status, extra={"event_id": event_id, "is_final": is_final})
        return is_final
