"""Every access to protected records is noted before the first byte of its answer goes, refusals too. Clauses 6.1b, 9.3e.

What is noted was said by the request's permission (`begin`, `Asked.judged`), and by whoever makes the answer (`Asking.shows`).
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from sqlalchemy import Engine
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.browsers import SAFE_METHODS
from api.emergency import Shut, is_of_a_hospital
from api.errors import problem_response
from api.paths import template_of
from api.plain_words import LEFT_OUT, plain_path, plain_query
from api.scope_keys import ACCESS_KEY, CALLER_KEY, REQUEST_ID_KEY
from domain.accesses import REASON, Access, Interaction, audit_event
from domain.alarms import OPEN_STATES
from domain.errors import AuditUnavailable, IntegrityViolation, Unavailable
from domain.permissions import Action, Decision, Located, Purpose, View
from domain.principals import Caller, Place
from runtime.access_journal import NewAccess
from runtime.sealing import WRITES, patient_owner
from runtime.sql.engine import reading
from runtime.sql.sealed import place_of_write, shut_text
from runtime.sql.users import called_in_log

if TYPE_CHECKING:  # else in a circle
    from api.services import Backend

logger = logging.getLogger(__name__)

# what tells nobody anything of anybody: noted only when it is refused
UNPROTECTED: Final = frozenset(
    {Action.CATALOGUE_READ, Action.OPERATION_READ, Action.LOG_READ, Action.HOST_READ, Action.PLACE_READ, Action.SELF}
)
# what those at the bedside need now, whether it can be noted or not; of alarms only what is open
EMERGENCY: Final = frozenset(
    {
        "/live/alarms", "/live/readings", "/readings/latest",
        "/patients/{patient_key}/state", "/devices/{hospital_id}/{device_id}/state",
        "/alarms/{alarm_id}", "/alarms/{alarm_id}/knowledge",
        "/alarms/{alarm_id}/acknowledge", "/alarms/{alarm_id}/pause-audio",
    }
)  # fmt: skip
_ALARMS: Final = "/alarms"
_OF_USERS: Final = ("/users/{name}", "/patients/{patient_key}/care-team/{name}")  # paths with a user's name begin so
MOST_PATIENTS: Final = 500  # in one event
MOST_WARDS: Final = 100  # of one access, beside its place
_CREATED: Final = 201
_BAD_REQUEST: Final = 400
_UNEXPECTED: Final = 500


@dataclass(frozen=True, slots=True)
class Judged:
    """A record as it was when it was asked for, what for, and how patients appeared."""

    action: Action
    record: Located
    view: View


@dataclass(slots=True)
class Asked:
    """What one request asks for, as its permission found it. Whoever makes the answer adds whom it shows."""

    action: Action
    purpose: Purpose | None = None
    is_emergency: bool = False  # present vital signs and open alarms, for who was given something at a hospital
    place: Place | None = None
    is_one: bool = False  # one record, which the caller named
    patients: set[str] = field(default_factory=set)
    wards: set[str] = field(default_factory=set)  # whose records are shown
    policies: set[str] = field(default_factory=set)
    view: View | None = None
    is_repeated: bool = False  # the answer of before is given again, nothing is done
    reason: str | None = None  # in the caller's words
    unmask: bool = False
    shut: Shut | None = None  # in an emergency: of the caller's grants not all count
    records: list[Judged] = field(default_factory=list)  # of patients; in an emergency all

    @property
    def is_reading(self) -> bool:
        """Whatever the method is, nothing but reading is asked for: a recording is begun by POST."""
        return self.is_repeated or self.action is Action.READING_READ

    def appear(self, view: View) -> None:
        """How patients appear in the answer: by name, when any of them may."""
        self.view = View.CLEAR if View.CLEAR in (view, self.view) else view

    def judged(self, action: Action, record: Located, decision: Decision, *, is_one: bool) -> None:
        """A record that is asked for, and what was decided."""
        self.place = self.place or record.place
        if record.place.ward_id is not None:
            self.wards.add(str(record.place))
        self.is_one = is_one
        self.policies.update(decision.policies)
        if self.is_emergency or record.patient_key is not None:
            self.records.append(Judged(action, record, decision.view))
        if record.patient_key is not None:
            self.patients.add(record.patient_key)


def begin(
    scope: Scope, action: Action, purpose: Purpose | None, closed: str | None, reason: str | None = None,
    *, unmask: bool = False,
) -> Asked:  # fmt: skip
    """A request asks for something. Raises AuditUnavailable while `closed`, the reason why accesses cannot be noted.

    Present vital signs and open alarms are shown all the same to who was given something at a hospital, or in a ward, and by
    that alone: of whom that is not all, `shut` says it.
    """
    asked = scope[ACCESS_KEY] = Asked(action, purpose, _is_emergency(scope), reason=reason, unmask=unmask)
    _check_open(scope, asked, closed)
    return asked


def begin_again(scope: Scope, asked: Asked, closed: str | None) -> Asked:
    """An answer is given again that was made for `asked`: it is noted as if it were asked now. Raises as `begin` does."""
    again = replace(asked, is_repeated=True, shut=None)
    scope[ACCESS_KEY] = again
    _check_open(scope, again, closed)
    return again


def _check_open(scope: Scope, asked: Asked, closed: str | None) -> None:
    if closed is None or asked.action in UNPROTECTED:
        return
    if not asked.is_emergency:
        raise AuditUnavailable(f"protected records are not shown now: {closed}")
    asked.shut = Shut.of(scope[CALLER_KEY], closed)


def _is_emergency(scope: Scope) -> bool:
    path = template_of(scope) or ""
    is_now = path in EMERGENCY or (path == _ALARMS and _is_of_open_alarms(scope["query_string"]))
    return is_now and is_of_a_hospital(scope[CALLER_KEY])


def _is_of_open_alarms(query: bytes) -> bool:
    """As the list of alarms reads its filter: states that are named count more than `open`."""
    given = parse_qs(query.decode("latin-1"))
    states = given.get("state")
    return OPEN_STATES.issuperset(states) if states else given.get("open", [""])[-1].lower() in ("true", "1")


def asked_of(scope: Scope) -> Asked | None:
    """What the permission of this request said; None before it did, and where there is none."""
    asked: Asked | None = scope.get(ACCESS_KEY)
    return asked


class AccessAudit:
    """ASGI middleware; stands behind authentication, before everything that makes answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or CALLER_KEY not in scope:
            await self._app(scope, receive, send)
            return
        is_begun = is_refused = False

        async def noted(message: Message) -> None:
            nonlocal is_begun, is_refused
            if is_refused:
                return
            if message["type"] == "http.response.start":
                is_begun = True
                try:
                    await _note(scope, message)
                except AuditUnavailable as error:
                    is_refused = True
                    await problem_response(error, scope)(scope, receive, send)
                    return
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:
            if not is_begun:  # whoever answers in words does so further out
                with contextlib.suppress(AuditUnavailable):
                    await _note(scope, {"status": _UNEXPECTED, "headers": []})
            raise


async def _note(scope: Scope, message: Message) -> None:
    """Raises AuditUnavailable when the answer may not go."""
    asked, status = asked_of(scope), int(message["status"])
    if asked is None or (asked.action in UNPROTECTED and status < _BAD_REQUEST):
        return
    backend = scope["app"].state.backend
    values = await _in_log(scope, backend)
    access = _access(scope, asked, status, values, backend.services.region_id, backend.services.clock.now_us())
    if asked.reason is not None:
        access = replace(access, reason=await backend.read(_sealed, backend.engine, access, asked.place, asked.reason))
    noted = [NewAccess(one.id, one.at_us, audit_event(one, backend.services.region_id)) for one in _parts(access)]
    try:
        await backend.trail.note(*noted, is_emergency=asked.is_emergency)
    except AuditUnavailable as error:
        if scope["method"] in SAFE_METHODS or asked.is_reading or status >= _BAD_REQUEST:
            raise
        # done is done, and its own transaction has told the write log: to say "failed" now would have it done twice
        logger.error("a change is in the write log, but its access is not noted: %s", error)
    if asked.is_emergency and backend.trail.why_closed() is not None:
        message["headers"] = [*message["headers"], (b"x-audit", b"spooled")]
        if asked.shut is not None:
            message["headers"].append((b"x-audit-within", ", ".join(asked.shut.within).encode()))


async def _in_log(scope: Scope, backend: Backend) -> dict[str, Any]:
    """What stands in the path, with the id of a patient's account in the place of its name."""
    values = dict(scope.get("path_params", {}))
    if (template_of(scope) or "").startswith(_OF_USERS):
        try:
            values["name"] = await backend.read(called_in_log, backend.engine, values["name"])
        except Unavailable:
            values["name"] = LEFT_OUT
    return values


def _access(
    scope: Scope, asked: Asked, status: int, values: Mapping[str, Any], region_id: str, now_us: int
) -> Access:  # fmt: skip
    caller: Caller = scope[CALLER_KEY]
    client, is_found, template = scope.get("client"), status < _BAD_REQUEST, template_of(scope)
    return Access(
        id=_new_id(),
        at_us=now_us,
        request_id=scope[REQUEST_ID_KEY],
        principal=caller.principal,
        action=asked.action,
        interaction=_interaction(asked, scope["method"], status),
        route=f"{scope['method']} {template or LEFT_OUT}",
        path=plain_path(template, values, region_id, is_found=is_found),
        status=status,
        query=plain_query(scope["query_string"], region_id, is_found=is_found),
        session_id=caller.session_id,
        address=client[0] if client else None,
        place=None if asked.place is None else str(asked.place),
        patients=tuple(sorted(asked.patients)),
        wards=tuple(sorted(asked.wards - {str(asked.place)})[:MOST_WARDS]) if is_found else (),
        purpose=asked.purpose,
        policies=tuple(sorted(asked.policies)),
        view=asked.view if asked.patients else None,
    )


def _sealed(engine: Engine, access: Access, place: Place | None, reason: str) -> str | None:
    """The reason as the write log's are sealed, so that it opens where they do; left out while there are no keys."""
    owner = WRITES
    if len(access.patients) == 1 and place is not None and place.hospital_id is not None:
        owner = patient_owner(place.hospital_id, access.patients[0])
    row = {"at_us": access.at_us, "who": access.principal.in_log, "action": access.action, "target": access.target}
    try:
        with reading(engine) as connection:
            return shut_text(connection, owner, place_of_write(row, REASON), reason)
    except (Unavailable, IntegrityViolation) as error:
        logger.error("an access is noted without its reason, which cannot be sealed: %s", error)
        return None


def _new_id() -> str:
    return f"a-{uuid.uuid4().hex}"


def _parts(access: Access) -> Iterator[Access]:
    """The same access in events of so many patients each as a message of the bus can bear, under one request id."""
    yield replace(access, patients=access.patients[:MOST_PATIENTS])
    for begin_at in range(MOST_PATIENTS, len(access.patients), MOST_PATIENTS):
        yield replace(access, id=_new_id(), wards=(), patients=access.patients[begin_at : begin_at + MOST_PATIENTS])


def _interaction(asked: Asked, method: str, status: int) -> Interaction:
    if method in SAFE_METHODS and not asked.is_repeated:
        return Interaction.READ if asked.is_one else Interaction.SEARCH
    if asked.is_reading:
        return Interaction.READ
    if method == "DELETE":
        return Interaction.DELETE
    return Interaction.CREATE if method == "POST" and status == _CREATED else Interaction.UPDATE
