"""RFC 9457 problems, as the HTTP door says what went wrong. `code` is stable; `detail` is the error's own sentence."""

from __future__ import annotations

import math
from typing import Final

import msgspec
from starlette.responses import Response

from domain.errors import (
    Conflict,
    IntegrityViolation,
    InvalidInput,
    NotFound,
    RejectedInput,
    StorageFull,
    TooManyAttempts,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    VitalgridError,
)

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 2
NO_ROOM_RETRY_AFTER_S: Final = 30
_LATER: Final = {"Retry-After": str(RETRY_AFTER_S)}
_MUCH_LATER: Final = {"Retry-After": str(NO_ROOM_RETRY_AFTER_S)}

# reason of a reject -> status; a reason that is not here is 422: understood, and not acceptable
_STATUS_OF_REASON: Final = {
    "malformed-json": 400,
    "malformed-value": 400,
    "malformed-frame": 400,
    "damaged-frame": 400,
    "malformed-key": 400,
    "oversize": 413,
    "frame-too-large": 413,
    "wrong-content-type": 415,
    "wrong-content-encoding": 415,
}
_STATUS_OF_ERROR: Final = (
    (Unauthenticated, 401),
    (NotFound, 404),
    (Conflict, 409),
    (InvalidInput, 422),
    (IntegrityViolation, 500),
    (StorageFull, 507),
    (TooManyAttempts, 429),
    (TooManyRequests, 429),
    (Unavailable, 503),
)
_TITLES: Final = {
    400: "The message cannot be read",
    401: "Not authenticated",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "The message is too large",
    415: "The content type is not taken here",
    422: "The message cannot be accepted",
    429: "Too much at once: send again later",
    500: "What was kept is damaged",
    503: "Not stored: send again later",
    507: "Not stored: there is no room on disk",
}
_HEADERS: Final = {
    401: {"WWW-Authenticate": "Bearer", "Connection": "close"},  # who was somebody until now is not to stay connected
    429: _MUCH_LATER, 503: _LATER, 507: _MUCH_LATER,
}  # fmt: skip


def problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    """A problem document."""
    body = {"type": f"urn:vitalgrid:problem:{code}", "title": _TITLES[status], "status": status, "code": code, "detail": detail}
    return Response(msgspec.json.encode(body), status, headers, media_type=MEDIA_TYPE)


def problem_of(error: VitalgridError) -> Response:
    """The problem document of one of the platform's errors."""
    if isinstance(error, RejectedInput):
        return problem(_STATUS_OF_REASON.get(error.reason, 422), error.reason, error.detail)
    status = next((status for kind, status in _STATUS_OF_ERROR if isinstance(error, kind)), 503)
    headers = _HEADERS.get(status)
    if isinstance(error, TooManyRequests) and error.wait_s is not None:
        headers = {"Retry-After": str(math.ceil(error.wait_s))}
    return problem(status, error.code, str(error), headers)
