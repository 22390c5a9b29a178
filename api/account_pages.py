"""The pages of an account: sign in, change the password, sign out. Plain HTML, no script, nothing from elsewhere.

The session's token is in a cookie that scripts cannot read and other sites cannot make the browser send. What changes
something has to come from a page of ours besides. Clauses 5.4a, 7.2d, 9.1b.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Annotated, Any, Final

import jinja2
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from api.auth import CALLER_KEY, PASSWORD_URL
from api.browsers import HOME_URL, LOGIN_URL, cookie_name, cookie_of, is_same_origin, local_path
from api.errors import headers_of, problem_type
from api.forms import address_of, form_of
from api.services import Backend, Behind
from api.sign_in import Issued
from domain.alarms import INTENDED_USE
from domain.errors import Forbidden, InvalidInput, Unauthenticated, VitalgridError
from domain.principals import Caller, Kind
from runtime.password_hashes import MAX_PASSWORD_CHARS
from runtime.password_policy import MIN_PASSWORD_CHARS
from runtime.sql.sessions import says_why

router = APIRouter(include_in_schema=False)
_HERE: Final = Path(__file__).parent
_STYLE: Final = (_HERE / "account.css").read_text(encoding="utf-8")
_PAGE: Final = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
    (_HERE / "account.html.j2").read_text(encoding="utf-8")
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
}


@router.get(LOGIN_URL)
async def login_page(next: Annotated[str, Query()] = HOME_URL, why: Annotated[str, Query()] = "") -> Response:  # noqa: A002 (the page's word)
    """The form, and why there is one again."""
    return _login(next, says_why(why))


@router.post(LOGIN_URL)
async def login(request: Request, behind: Behind) -> Response:
    """Begin a session in a cookie."""
    fields = await _fields(request)
    leads_to, name = fields.get("next"), fields.get("username", "")
    try:
        issued = await behind.sign_in.with_password(name, fields.get("password", ""), address_of(request))
    except Unauthenticated:
        return _login(
            leads_to,
            "用户名或密码不对，或账户已锁定、停用。Not let in: name or password is wrong, or locked for now.",
            name,
            401,
        )
    except VitalgridError as error:
        return _login(leads_to, str(error), name, problem_type(type(error)).status)
    return _signed_in(issued, behind, PASSWORD_URL if issued.must_change else local_path(leads_to))


@router.post("/logout")
async def logout(request: Request, behind: Behind) -> Response:
    """End the session of the cookie. Without one, or with one that ended, it is the same."""
    _check_origin(request)
    name = cookie_name(over_tls=behind.services.over_tls)
    token = cookie_of(request.scope, name)
    if token is not None:
        await behind.sign_in.sign_out(token, address_of(request))
    response = RedirectResponse(LOGIN_URL, 303, _HEADERS)
    response.delete_cookie(name, secure=behind.services.over_tls, httponly=True, samesite="strict")
    return response


@router.get(HOME_URL)
async def home(request: Request) -> Response:
    """Who is signed in, and where to go from here."""
    caller: Caller = request.scope[CALLER_KEY]
    is_user = caller.principal.kind is Kind.USER
    return _shown("home", title=caller.principal.name, name=caller.principal.name, grants=caller.grants, is_user=is_user)


@router.get(PASSWORD_URL)
async def password_page(request: Request) -> Response:
    """The form for one's own password."""
    return _password(request.scope[CALLER_KEY])


@router.post(PASSWORD_URL)
async def change_password(request: Request, behind: Behind) -> Response:
    """Change it; the session goes on as a new one."""
    caller: Caller = request.scope[CALLER_KEY]
    fields = await _fields(request)
    try:
        if fields.get("new") != fields.get("again"):
            raise InvalidInput("两次输入的新密码不一致。The two new passwords are not the same.")
        present, new = fields.get("present", ""), fields.get("new", "")
        issued = await behind.sign_in.change_password(caller, present, new, address_of(request))
    except VitalgridError as error:
        return _password(caller, str(error), problem_type(type(error)).status)
    return _signed_in(issued, behind, HOME_URL)


def _check_origin(request: Request) -> None:
    """Raises Forbidden for a form of another site, which could sign its reader in as somebody else, or out."""
    if not is_same_origin(request.scope):
        raise Forbidden("the form comes from another site: expected one of this site's own pages")


async def _fields(request: Request) -> dict[str, str]:
    _check_origin(request)
    return await form_of(request)


def _signed_in(issued: Issued, behind: Backend, leads_to: str) -> Response:
    response = RedirectResponse(leads_to, 303, _HEADERS)
    is_over_tls = behind.services.over_tls
    name = cookie_name(over_tls=is_over_tls)
    response.set_cookie(name, issued.access_token, secure=is_over_tls, httponly=True, samesite="strict")
    return response


def _login(leads_to: str | None, problem: str, name: str = "", status: int = 200) -> Response:
    return _shown("login", status, title="登录", problem=problem, name=name, next=local_path(leads_to))


def _password(caller: Caller, problem: str = "", status: int = 200) -> Response:
    limits = {"shortest": MIN_PASSWORD_CHARS, "longest": MAX_PASSWORD_CHARS}
    name, must = caller.principal.name, caller.must is not None
    return _shown("password", status, title="修改密码", problem=problem, name=name, must=must, **limits)


def _shown(page: str, status: int = 200, *, problem: str = "", **values: Any) -> Response:
    text = _PAGE.render(page=page, style=_STYLE, problem=problem, intended_use=INTENDED_USE, **values)
    return HTMLResponse(text, status, _HEADERS | headers_of(status, is_page=True))
