"""`Idempotency-Key` on POST: a request repeated with its key is answered as the first time, and done once.

Keys are remembered for a day, by caller and path, in the memory of this process: a restart forgets them. What must
outlive one has a record of its own (readings that are entered: `runtime.once`) and is left alone here. Only success is
remembered; after an error the key is free, because nothing was done.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import CALLER_KEY
from api.errors import problem_response
from domain.errors import Conflict, InvalidInput, VitalgridError
from domain.ports import Clock

KEPT_US: Final = 86_400_000_000
MAX_KEYS: Final = 10_000
MAX_KEPT_BYTES: Final = 1 * 2**20
MAX_KEY_CHARS: Final = 200
_DURABLE_ELSEWHERE: Final = "/observations"
_SHOWN_ONCE: Final = ("/second-factor", "/second-factor/confirm")  # secrets, kept nowhere in clear


@dataclass(slots=True)
class _Record:
    body: str
    at_us: int
    done: asyncio.Event = field(default_factory=asyncio.Event)
    answer: list[Message] = field(default_factory=list)
    is_kept: bool = False


class IdempotencyKeys:
    """ASGI middleware; stands behind authentication. Where that lets strangers through there are no keys."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        self._records: OrderedDict[tuple[str, str, str], _Record] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = _key_of(scope)
        if key is None:
            await self._app(scope, receive, send)
            return
        try:
            if len(key) > MAX_KEY_CHARS:
                raise InvalidInput(f"Idempotency-Key holds {len(key)} characters: expected at most {MAX_KEY_CHARS}")
            await self._once((scope[CALLER_KEY].principal.id, scope["path"], key), scope, receive, send)
        except VitalgridError as error:
            await problem_response(error, scope)(scope, receive, send)

    async def _once(self, name: tuple[str, str, str], scope: Scope, receive: Receive, send: Send) -> None:
        messages, digest = await _read(receive)
        while (record := self._record(name)) is not None:
            if record.body != digest:
                raise Conflict("the Idempotency-Key was used within a day with another body: use a new key")
            await record.done.wait()
            if record.is_kept:
                for message in record.answer:
                    await send(message)
                return
        record = self._records[name] = _Record(digest, self._clock.now_us())
        try:
            await self._app(scope, _replay(messages, receive), _recording(record, send))
            record.is_kept = bool(record.answer)
        finally:
            if not record.is_kept:
                self._records.pop(name, None)
            record.done.set()

    def _record(self, name: tuple[str, str, str]) -> _Record | None:
        oldest_us = self._clock.now_us() - KEPT_US
        while self._records:
            first, record = next(iter(self._records.items()))
            if not record.is_kept or (record.at_us >= oldest_us and len(self._records) <= MAX_KEYS):
                break
            del self._records[first]
        return self._records.get(name)


def _key_of(scope: Scope) -> str | None:
    if (
        scope["type"] != "http"
        or CALLER_KEY not in scope
        or scope["method"] != "POST"
        or scope["path"].endswith((_DURABLE_ELSEWHERE, *_SHOWN_ONCE))
    ):
        return None
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"idempotency-key"), None)


async def _read(receive: Receive) -> tuple[list[Message], str]:
    """The whole request, and its body's digest."""
    messages: list[Message] = []
    digest = hashlib.sha256()
    while not messages or messages[-1].get("more_body", False):
        messages.append(await receive())
        digest.update(messages[-1].get("body", b""))
    return messages, digest.hexdigest()


def _replay(messages: list[Message], receive: Receive) -> Receive:
    waiting = iter(messages)

    async def replayed() -> Message:
        message = next(waiting, None)
        return await receive() if message is None else message

    return replayed


def _recording(record: _Record, send: Send) -> Send:
    """Pass messages on; `record.answer` holds them in the end if they are a success of bearable size, else nothing."""
    size = 0
    is_wanted = False

    async def recorded(message: Message) -> None:
        nonlocal size, is_wanted
        if message["type"] == "http.response.start":
            is_wanted = 200 <= message["status"] < 300
        size += len(message.get("body", b""))
        if not is_wanted or size > MAX_KEPT_BYTES:
            is_wanted = False
            record.answer.clear()
        else:
            record.answer.append(dict(message))
        await send(message)

    return recorded
