"""The token endpoint (RFC 6749, 7009): sessions for users, an hour for services. Answers are the RFC's, not problems."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_plus

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from api.errors import headers_of, problem_type
from api.forms import MEDIA_TYPE, address_of, form_of
from api.routes.router import EVERYWHERE
from api.services import Backend, Behind
from api.sign_in import Issued
from domain.errors import Busy, InvalidInput, TooManyAttempts, Unauthenticated, VitalgridError

router = APIRouter(prefix="/oauth", tags=["sign-in"], responses=EVERYWHERE)
_NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/json": {"example": {
        "access_token": "vgs_…", "token_type": "Bearer", "expires_in": 43200, "refresh_token": "vgr_…", "must_change": False,
    }}}},
    400: {"description": "RFC 6749 5.2: `error` is `invalid_grant`, `invalid_request` or `unsupported_grant_type`; with 401 it "
          "is `invalid_client`: a service's name and token came by Basic and are wrong."},
}  # fmt: skip


def _form(fields: Mapping[str, str], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": {name: {"type": "string"} for name in fields}}
    return {"requestBody": {"required": True, "content": {MEDIA_TYPE: {"schema": schema, "example": fields}}}}


class _OauthError(Exception):
    """An error in the RFC's words."""

    def __init__(self, error: str, says: str, status: int = 400) -> None:
        super().__init__(says)
        self.error = error
        self.status = status


@router.post(
    "/token", response_class=JSONResponse, responses=_ANSWERS,
    openapi_extra=_form({"grant_type": "password", "username": "li.na", "password": "…", "totp": "123456"}, ["grant_type"]),
)  # fmt: skip
async def token(request: Request, behind: Behind) -> Response:
    """Sign in: `grant_type` is `password` (with `username` and `password`), `refresh_token`, or `client_credentials`.

    Who has a second factor sends `totp` too, a one-time code or a recovery code; without, and only when the password was
    right, the error's `code` is `second-factor-required`, with a wrong or used one `second-factor-wrong`.

    Signing in ends the user's former session. A refresh token is good once. Services give their name and token as
    `client_id` and `client_secret`, or as Basic, and get a token for an hour.
    """
    try:
        issued = await _issue(await form_of(request), request, behind)
    except _OauthError as error:
        return _refusal(error.status, error.error, str(error))
    except (InvalidInput, Unauthenticated, Busy, TooManyAttempts) as error:
        return _of_ours(error)
    answer = {"access_token": issued.access_token, "token_type": "Bearer", "expires_in": issued.expires_in_s}
    if issued.refresh_token is not None:
        answer |= {"refresh_token": issued.refresh_token, "must_change": issued.must_change}
    return JSONResponse(answer, headers=_NO_STORE)


@router.post("/revoke", response_class=Response, openapi_extra=_form({"token": "vgs_…"}, ["token"]))
async def revoke(request: Request, behind: Behind) -> Response:
    """Sign out: the session with this access or refresh token ends. An unknown token is answered alike."""
    try:
        fields = await form_of(request)
    except InvalidInput as error:
        return _of_ours(error)
    if not fields.get("token"):
        return _refusal(400, "invalid_request", "token is missing")
    try:
        await behind.sign_in.sign_out(fields["token"], address_of(request))
    except TooManyAttempts as error:
        return _of_ours(error)
    return Response(headers=_NO_STORE)


async def _issue(fields: dict[str, str], request: Request, behind: Backend) -> Issued:
    match _field(fields, "grant_type"):
        case "password":
            name, password = _field(fields, "username"), _field(fields, "password")
            return await behind.sign_in.with_password(name, password, address_of(request), fields.get("totp", ""))
        case "refresh_token":
            return await behind.sign_in.with_refresh(_field(fields, "refresh_token"), address_of(request))
        case "client_credentials":
            return await _service(fields, request, behind)
        case _:
            expected = "password, refresh_token or client_credentials"
            raise _OauthError("unsupported_grant_type", f"grant_type is not offered: expected {expected}")


async def _service(fields: dict[str, str], request: Request, behind: Backend) -> Issued:
    name, secret = _client_of(fields, request)
    try:
        return await behind.sign_in.with_service_token(name, secret, address_of(request))
    except Unauthenticated as error:
        if _is_basic(request):  # RFC 6749 5.2: who tried by a header is answered with a challenge
            raise _OauthError("invalid_client", str(error), 401) from None
        raise


def _is_basic(request: Request) -> bool:
    return request.headers.get("authorization", "").partition(" ")[0].lower() == "basic"


def _field(fields: dict[str, str], name: str) -> str:
    if not fields.get(name):
        raise _OauthError("invalid_request", f"{name} is missing")
    return fields[name]


def _client_of(fields: dict[str, str], request: Request) -> tuple[str, str]:
    """Name and token of a service: from Basic, where both are form-encoded (RFC 6749 2.3.1), or from the form."""
    if not _is_basic(request):
        return _field(fields, "client_id"), _field(fields, "client_secret")
    credentials = request.headers["authorization"].partition(" ")[2]
    try:
        name, _, secret = base64.b64decode(credentials.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise _OauthError("invalid_request", "the Basic credentials cannot be read") from None
    return unquote_plus(name), unquote_plus(secret)


def _of_ours(error: VitalgridError) -> Response:
    match error:
        case InvalidInput():
            return _refusal(400, "invalid_request", str(error))
        case Unauthenticated():
            why = {} if error.code == Unauthenticated.code else {"code": error.code}
            return _refusal(400, "invalid_grant", str(error), **why)
        case _:
            return _refusal(problem_type(type(error)).status, "temporarily_unavailable", str(error))


def _refusal(status: int, error: str, says: str, **more: str) -> Response:
    return JSONResponse({"error": error, "error_description": says, **more}, status, _NO_STORE | headers_of(status))
