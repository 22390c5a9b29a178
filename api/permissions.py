"""The permission that each route needs stands in its signature, once: `who: Annotated[Asking, may(ACTION, at=LOCATOR)]`.

`at` finds the record's place by the path or the query; `may_where_body_says` leaves that to the handler, which gets an
`Unplaced`. A list (`may_list`) is refused where nothing of it can be within reach, and holds what is
(`who.reach`) otherwise. The permission is judged before anything else of a request is looked at, its body least of all, where
`who` is the first parameter. The action stands in the OpenAPI document as `x-permission`. Clauses 5.1, 7.2b, 9.3b.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final
from urllib.parse import unquote

from fastapi import Depends, Header, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from api.access_audit import begin
from api.asking import Asking, Judge, Target, Unplaced
from api.emergency import at_hospitals
from api.scope_keys import CALLER_KEY
from api.services import Behind
from domain.errors import InvalidInput
from domain.permissions import Action, Purpose
from domain.principals import Place

MAX_REASON_CHARS: Final = 500
PERMISSION: Final = "x-permission"
_PLAIN_NAME: Final = re.compile(r"[a-z_]{1,40}")  # what else stands there may be anybody's name
ANYBODYS: Final = frozenset({Action.SELF, Action.CATALOGUE_READ})  # of every caller, whatever they were given


async def _purpose(
    x_purpose: Annotated[
        str | None,
        Header(
            description="What the records are asked for (HL7 PurposeOfUse). By role, if left out.",
            json_schema_extra={"enum": list(Purpose)},
        ),
    ] = None,
) -> Purpose | None:
    if x_purpose is None:
        return None
    try:
        return Purpose(x_purpose.strip().upper())
    except ValueError:
        raise InvalidInput(f"X-Purpose {x_purpose[:80]!r} is unknown: expected one of {', '.join(Purpose)}") from None


async def _reason(
    x_reason: Annotated[
        str | None, Header(description="Why; recorded with each write. Percent-encode what is not ASCII (UTF-8).")
    ] = None,
) -> str | None:
    reason = unquote(x_reason).strip() if x_reason else ""
    if len(reason) > MAX_REASON_CHARS:
        raise InvalidInput(f"X-Reason holds {len(reason)} characters: expected at most {MAX_REASON_CHARS}")
    return reason or None


async def _unmask(
    reason: Annotated[str | None, Depends(_reason)],
    x_unmask: Annotated[
        bool, Header(description="Show patients by name to who may see them so when they say why (X-Reason).")
    ] = False,
) -> bool:
    if x_unmask and reason is None:
        raise InvalidInput("X-Unmask shows patients by name: say why, in X-Reason")
    return x_unmask


_Purpose = Annotated[Purpose | None, Depends(_purpose)]
_Reason = Annotated[str | None, Depends(_reason)]
_Unmask = Annotated[bool, Depends(_unmask)]


def _judging(action: Action) -> Callable[..., Any]:
    """A dependency: the judge of a caller who may do `action` somewhere. It comes before the locator, which asks more."""

    async def judge(request: Request, behind: Behind, purpose: _Purpose, reason: _Reason, unmask: _Unmask) -> Judge:
        asked = begin(request.scope, action, purpose, behind.trail.why_closed(), reason, unmask=unmask)
        caller = request.scope[CALLER_KEY] if asked.shut is None else at_hospitals(request.scope[CALLER_KEY])
        made = Judge(behind.services.authoriser, caller, action, asked, purpose, reason, unmask)
        if action not in ANYBODYS:
            made.somewhere()
        _check_query(request)
        return made

    return judge


def _check_query(request: Request) -> None:
    """Raises InvalidInput for a parameter that the route does not have: passed over, a filter would have shown everything."""
    if not request.query_params:
        return
    known = _query_names(request.scope["route"])
    if unknown := set(request.query_params) - known:
        named = sorted(name for name in unknown if _PLAIN_NAME.fullmatch(name)) or ["a name that none has"]
        expected = f"expected {', '.join(sorted(known))}" if known else "it has none"
        raise InvalidInput(f"the query has parameters that this path does not know ({', '.join(named[:5])}): {expected}")


_names_of: Final[dict[Callable[..., Any], frozenset[str]]] = {}


def _query_names(route: APIRoute) -> frozenset[str]:
    """Found once a handler: a route does not change."""
    if route.endpoint not in _names_of:
        _names_of[route.endpoint] = frozenset(_query_parameters(route.dependant))
    return _names_of[route.endpoint]


def _query_parameters(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for part in dependant.dependencies:
        yield from _query_parameters(part)


def may(action: Action, *, at: Callable[..., Any]) -> Any:
    """A dependency that yields an `Asking` when the caller may do `action` to what `at`, a locator, finds."""
    judged, located = Depends(_judging(action)), Depends(at)

    async def permitted(judge: Judge = judged, target: Target = located) -> Asking:
        return Asking(judge, judge.permit(target))

    permitted.permission = action  # type: ignore[attr-defined]  # read by `permissions_of`
    return Depends(permitted)


async def _anywhere() -> tuple[Place, ...]:
    return ()


def may_list(action: Action, *, at: Callable[..., Any] = _anywhere) -> Any:
    """A dependency that yields an `Asking` for a list: the caller may do `action` somewhere, and near what is named.

    `at` finds the places that a filter names. Nothing was permitted of any record yet: `who.reach` says which the list may
    hold, and the database puts it in force.
    """
    judged, located = Depends(_judging(action)), Depends(at)

    async def permitted(judge: Judge = judged, named: tuple[Place, ...] = located) -> Asking:
        judge.near(named)
        return Asking(judge)

    permitted.permission = action  # type: ignore[attr-defined]
    return Depends(permitted)


def may_where_body_says(action: Action) -> Any:
    """A dependency that yields an `Unplaced`: the caller may do `action` somewhere, and the handler asks where."""
    judged = Depends(_judging(action))

    async def permitted(judge: Judge = judged) -> Unplaced:
        return Unplaced(judge)

    permitted.permission = action  # type: ignore[attr-defined]
    return Depends(permitted)


def permissions_of(dependant: Dependant) -> Iterator[Action]:
    """What a route needs, as the signature of its handler says: one, of every route that is well."""
    permission = getattr(dependant.call, "permission", None)
    if permission is not None:
        yield permission
    for part in dependant.dependencies:
        yield from permissions_of(part)
