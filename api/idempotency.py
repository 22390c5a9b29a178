"""`Idempotency-Key` on POST: a request repeated with its key is answered as the first time, and done once.

Keys are remembered for a day, by caller, path and query, in the memory of this process: a restart forgets them. What
must outlive one has a record of its own (readings that are entered: `runtime.once`) and is left alone here. Only success
is remembered; after an error the key is free, because nothing was done. An answer that nobody may store is not kept.

A kept answer is given again to who may still do what they did then, and noted in the access log. Permission is a function
of what of the caller counts (`Standing`) and of the record: the first has to be the same, and each patient of the answer is
located and judged again, who may have been moved, erased or put above others meanwhile. Otherwise the request is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access_audit import Asked, Judged, asked_of, begin_again
from api.emergency import at_hospitals
from api.errors import problem_response
from api.scope_keys import ACCESS_KEY, CALLER_KEY
from domain.errors import Conflict, Forbidden, InvalidInput, VitalgridError
from domain.instants import DAY_US
from domain.permissions import Action, Authoriser, Located, View
from domain.ports import Clock
from domain.principals import Caller
from runtime.policy_requests import Standing
from runtime.sql import locating

if TYPE_CHECKING:  # else in a circle
    from api.services import Backend

KEPT_US: Final = DAY_US
MAX_KEYS: Final = 10_000
MAX_KEPT_BYTES: Final = 1 * 2**20
MAX_KEY_CHARS: Final = 200
_DURABLE_ELSEWHERE: Final = "/observations"
_ROUTED: Final = ("route", "path_params")  # in the ASGI scope, once a request is routed
_ASKED_BY: Final = (b"x-purpose", b"x-unmask")  # headers that the answer hangs on
_Name = tuple[str, str, bytes, str]  # caller, path, query, key


@dataclass(slots=True)
class _Record:
    body: str
    at_us: int
    done: asyncio.Event = field(default_factory=asyncio.Event)
    answer: list[Message] = field(default_factory=list)
    is_kept: bool = False
    standing: Standing | None = None  # of the caller, when it was done
    asked: Asked | None = None
    routed: dict[str, Any] = field(default_factory=dict)


class IdempotencyKeys:
    """ASGI middleware; stands behind authentication. Where that lets strangers through there are no keys."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        self._records: OrderedDict[_Name, _Record] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = _key_of(scope)
        if key is None:
            await self._app(scope, receive, send)
            return
        try:
            if len(key) > MAX_KEY_CHARS:
                raise InvalidInput(f"Idempotency-Key holds {len(key)} characters: expected at most {MAX_KEY_CHARS}")
            await self._once((scope[CALLER_KEY].principal.id, scope["path"], scope["query_string"], key), scope, receive, send)
        except VitalgridError as error:
            await problem_response(error, scope)(scope, receive, send)

    async def _once(self, name: _Name, scope: Scope, receive: Receive, send: Send) -> None:
        messages, digest = await _read(receive, [pair for pair in scope["headers"] if pair[0] in _ASKED_BY])
        while (record := self._record(name)) is not None:
            if record.body != digest:
                raise Conflict("the Idempotency-Key was used within a day with another body, or another purpose: use a new key")
            await record.done.wait()
            if record.is_kept:
                await self._permit_again(record, scope)
                for message in record.answer:
                    await send(dict(message))
                return
        record = self._records[name] = _Record(digest, self._clock.now_us(), standing=self._standing(scope))
        try:
            await self._app(scope, _replay(messages, receive), _recording(record, send))
            record.asked, record.routed = asked_of(scope), {part: scope[part] for part in _ROUTED if part in scope}
            record.is_kept = bool(record.answer)
        finally:
            if not record.is_kept:
                self._records.pop(name, None)
            record.done.set()

    def _standing(self, scope: Scope) -> Standing:
        return Standing.of(scope[CALLER_KEY], self._clock.now_us())

    async def _permit_again(self, record: _Record, scope: Scope) -> None:
        """Raises Forbidden for a caller who was given, or lost, something since, or a patient's record; AuditUnavailable."""
        scope.update(record.routed)
        if record.asked is not None:
            backend: Backend = scope["app"].state.backend
            again = begin_again(scope, record.asked, backend.trail.why_closed())
        if record.standing != self._standing(scope):
            if record.asked is not None:
                scope[ACCESS_KEY] = replace(record.asked, patients=set())
            raise Forbidden("this was done, but what you may do has changed since: its answer is not given again")
        if record.asked is not None:
            await _judge_again(again, scope[CALLER_KEY], backend)

    def _record(self, name: _Name) -> _Record | None:
        oldest_us = self._clock.now_us() - KEPT_US
        while self._records:
            first, record = next(iter(self._records.items()))
            if not record.is_kept or (record.at_us >= oldest_us and len(self._records) <= MAX_KEYS):
                break
            del self._records[first]
        return self._records.get(name)


async def _judge_again(asked: Asked, caller: Caller, backend: Backend) -> None:
    """Raises Forbidden when the answer would not be the same now; AuditUnavailable for what does not count in an emergency."""
    counting = caller if asked.shut is None else at_hospitals(caller)
    for judged in _judged(asked):
        now = await _as_it_is_now(judged, backend)
        if not _is_given(counting, asked, now, backend.services.authoriser):
            asked.view = None
            if asked.shut is not None and _is_given(caller, asked, now, backend.services.authoriser):
                raise asked.shut.refusal()
            raise Forbidden("this was done, but its record is not yours to see any more: its answer is not given again")


def _judged(asked: Asked) -> Iterator[Judged]:
    """What has to be permitted still: what was at first, and whom the answer shows besides (who was admitted by it)."""
    yield from asked.records
    known = {judged.record.patient_key for judged in asked.records}
    if asked.place is not None:
        for key in sorted(asked.patients - known):
            yield Judged(asked.action, Located(asked.place, None, key), asked.view or View.MASKED)


async def _as_it_is_now(judged: Judged, backend: Backend) -> Judged:
    """Where the patient is by now, and how sensitive; an alarm stays where it was raised. Without a level: gone."""
    key, place = judged.record.patient_key, judged.record.place
    if key is None:
        return judged
    find = locating.patient_to_erase if judged.action is Action.PATIENT_ERASE else locating.patient
    found = await backend.read(find, backend.engine, key)
    if found is None:
        return replace(judged, record=Located(place, None, key))
    return replace(judged, record=replace(found, place=place) if judged.action is Action.ALARM_ANSWER else found)


def _is_given(caller: Caller, asked: Asked, judged: Judged, authoriser: Authoriser) -> bool:
    decision = authoriser.decide(caller, judged.action, judged.record, asked.purpose, unmask=asked.unmask)
    return decision.is_allowed and (judged.view is not View.CLEAR or decision.view is View.CLEAR)


def _key_of(scope: Scope) -> str | None:
    if (
        scope["type"] != "http"
        or CALLER_KEY not in scope
        or scope["method"] != "POST"
        or scope["path"].endswith(_DURABLE_ELSEWHERE)
    ):
        return None
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"idempotency-key"), None)


async def _read(receive: Receive, headers: list[tuple[bytes, bytes]]) -> tuple[list[Message], str]:
    """The whole request, and the digest of its body and these headers."""
    messages: list[Message] = []
    digest = hashlib.sha256(repr(sorted(headers)).encode())
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


def _is_secret(start: Message) -> bool:
    return any(name.lower() == b"cache-control" and b"no-store" in value for name, value in start["headers"])


def _recording(record: _Record, send: Send) -> Send:
    """Pass messages on; `record.answer` holds them in the end if they are a success of bearable size, else nothing."""
    size = 0
    is_wanted = False

    async def recorded(message: Message) -> None:
        nonlocal size, is_wanted
        if message["type"] == "http.response.start":
            is_wanted = 200 <= message["status"] < 300 and not _is_secret(message)
        size += len(message.get("body", b""))
        if not is_wanted or size > MAX_KEPT_BYTES:
            is_wanted = False
            record.answer.clear()
        else:
            record.answer.append(dict(message))
        await send(message)

    return recorded
