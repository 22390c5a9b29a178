"""Errors at the edge: domain errors become RFC 9457 problems here, by one table, and nowhere else.

Every problem has a stable `code` (that of the domain error), one sentence in `detail`, and the request's id.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException

from api.scope_keys import REQUEST_ID_KEY
from domain import errors
from domain.errors import Conflict, InvalidInput, RejectedInput, VitalgridError

logger = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
_RETRY_AFTER_S: Final = {429: 5, 503: 2, 507: 30}


class ValidationFailed(InvalidInput):
    """Fields of the request are missing or wrong; `fields` lists each in words."""

    code = "validation"


class PreconditionRequired(InvalidInput):
    """An update came without If-Match."""

    code = "precondition-required"


class MethodNotAllowed(InvalidInput):
    """The path exists, not for this method."""

    code = "method-not-allowed"


class NotAcceptable(InvalidInput):
    """The representation asked for is not offered here."""

    code = "not-acceptable"


class UnsupportedEncoding(InvalidInput):
    """A body that is packed: what it unpacks to has no bound that could be known before."""

    code = "unsupported-encoding"


class BodyTooLarge(InvalidInput):
    """The request's body is larger than this path takes."""

    code = "body-too-large"


class InternalError(VitalgridError):
    """A defect of ours; its trace is in the log under the request id."""

    code = "internal-error"


@dataclass(frozen=True, slots=True)
class ProblemType:
    error: type[VitalgridError]
    status: int
    title: str


# The first row whose class the error is an instance of decides, so leaves stand before their bases.
PROBLEMS: Final[tuple[ProblemType, ...]] = (
    ProblemType(ValidationFailed, 422, "The request is not valid"),
    ProblemType(PreconditionRequired, 428, "If-Match is required"),
    ProblemType(errors.StaleVersion, 412, "The version is stale"),
    ProblemType(MethodNotAllowed, 405, "The method is not offered here"),
    ProblemType(NotAcceptable, 406, "The representation is not offered"),
    ProblemType(UnsupportedEncoding, 415, "The body's encoding is not taken"),
    ProblemType(BodyTooLarge, 413, "The body is too large"),
    ProblemType(RejectedInput, 422, "The input was refused"),
    ProblemType(InvalidInput, 422, "The input cannot be accepted"),
    ProblemType(errors.NotFound, 404, "Not found"),
    ProblemType(Conflict, 409, "The request contradicts the present state"),
    ProblemType(errors.Unauthenticated, 401, "Authentication is required"),
    ProblemType(errors.Forbidden, 403, "Not permitted"),
    ProblemType(errors.TooManyAttempts, 429, "Too many attempts"),
    ProblemType(errors.TooManyRequests, 429, "Too many requests"),
    ProblemType(errors.StorageFull, 507, "There is no room on disk"),
    ProblemType(errors.Unavailable, 503, "Temporarily unavailable"),
    ProblemType(errors.IntegrityViolation, 500, "Stored data failed its integrity check"),
    ProblemType(InternalError, 500, "Unexpected error"),
    ProblemType(VitalgridError, 500, "Unexpected error"),
)
_BY_HTTP_STATUS: Final[Mapping[int, type[VitalgridError]]] = {
    404: errors.NotFound,
    405: MethodNotAllowed,
    406: NotAcceptable,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
}


def problem_type(error: type[VitalgridError]) -> ProblemType:
    """The row of the table that `error` falls under."""
    return next(row for row in PROBLEMS if issubclass(error, row.error))


def problem_response(error: VitalgridError, scope: Mapping[str, Any], **extra: object) -> Response:
    """The problem document of `error`; `extra` members are added to it."""
    row = problem_type(type(error))
    request_id = scope.get(REQUEST_ID_KEY)
    document = {
        "type": f"urn:vitalgrid:problem:{error.code}",
        "title": row.title,
        "status": row.status,
        "detail": str(error),
        "code": error.code,
        "instance": scope.get("path"),
        "request_id": request_id,
        **extra,
    }
    headers = headers_of(row.status)
    if request_id:
        headers["X-Request-Id"] = request_id
    return Response(msgspec.json.encode(document), row.status, headers, MEDIA_TYPE)


def problems(*kinds: type[VitalgridError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI `responses` for the errors a route may answer with."""
    rows = [(kind, problem_type(kind)) for kind in kinds]
    answers: dict[int | str, dict[str, Any]] = {}
    for kind, row in rows:
        example = {"type": f"urn:vitalgrid:problem:{kind.code}", "title": row.title, "status": row.status, "code": kind.code}
        answer = answers.setdefault(
            row.status,
            {
                "description": row.title,
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )
        answer["content"][MEDIA_TYPE]["examples"][kind.code] = {"value": example}
    return answers


PROBLEM_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457 problem. `code` is stable; `detail` is one sentence for people.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "instance": {"type": "string"},
        "request_id": {"type": "string"},
        "reason": {"type": "string", "description": "why a door refused the input, where it did"},
        "fields": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"where": {"type": "string"}, "problem": {"type": "string"}},
            },
        },
    },
}


def install(app: FastAPI) -> None:
    """Make `app` answer every error as a problem."""
    app.add_exception_handler(VitalgridError, _domain_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected_error)


async def _domain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, VitalgridError)
    _let_go(error)
    extra = {"reason": error.reason} if isinstance(error, RejectedInput) else {}
    return problem_response(error, request.scope, **extra)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    _let_go(error)
    fields = [{"where": _where(item["loc"]), "problem": _sentence(item)} for item in error.errors()]
    words = "; ".join(f"{field['where']}: {field['problem']}" for field in fields)
    count = f"{len(fields)} field{'s are' if len(fields) > 1 else ' is'} wrong"
    return problem_response(ValidationFailed(f"{count}: {words}"), request.scope, fields=fields)


def _where(location: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in location)


def _sentence(item: Mapping[str, Any]) -> str:
    cause = item.get("ctx", {}).get("error")
    return str(cause or item["msg"])


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    _let_go(error)
    kind = _BY_HTTP_STATUS.get(error.status_code)
    if kind is None:
        kind = InvalidInput if error.status_code < 500 else InternalError
    why = "cannot be read" if error.status_code == 400 else "is not offered"
    detail = f"{request.method} {request.url.path} {why}: {error.detail}"
    response = problem_response(kind(detail), request.scope)
    response.headers.update(error.headers or {})
    if kind is MethodNotAllowed:
        response.headers["Allow"] = ", ".join(_offered_at(request))
    return response


def _offered_at(request: Request) -> list[str]:
    """All methods of a path: each is a route of its own, and the one that was met first knows its own alone."""
    found: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.methods and route.path_regex.match(request.scope["path"]):
            found |= route.methods
    return sorted(found)


def _let_go(error: Exception) -> None:
    """Forget where an error came from that is answered now. Frames that raised it hold it, and with it whole bodies, in
    cycles: Python would look for them seldom (`runtime.garbage`).
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None


async def _unexpected_error(request: Request, error: Exception) -> Response:
    request_id = request.scope.get(REQUEST_ID_KEY)
    logger.error(
        "a request met an unexpected error",
        exc_info=error,
        extra={"request_id": request_id, "error": type(error).__name__},
    )
    return problem_response(InternalError(f"unexpected error; the log names it under {request_id}"), request.scope)


def headers_of(status: int, *, is_page: bool = False) -> dict[str, str]:
    """Headers that an answer of this status has. At a challenge for Basic a browser opens its own dialogue over a page."""
    if status in _RETRY_AFTER_S:
        return {"Retry-After": str(_RETRY_AFTER_S[status])}
    if status == 401:
        bearer = 'Bearer realm="vitalgrid"'
        return {"WWW-Authenticate": bearer if is_page else f'{bearer}, Basic realm="vitalgrid"'}
    return {}
