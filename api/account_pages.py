"""The pages of an account: sign in, change the password, sign out. Plain HTML, no script, nothing from elsewhere.

The session's token is in a cookie that scripts cannot read and other sites cannot make the browser send. What changes
something has to come from a page of ours besides. Clauses 5.4a, 7.2d, 9.1b.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from api.auth import PASSWORD_URL
from api.browsers import HOME_URL, LOGIN_URL, cookie_name, cookie_of, local_path
from api.errors import problem_type
from api.forms import address_of
from api.pages import HEADERS, check_origin, fields_of, shown
from api.scope_keys import CALLER_KEY
from api.services import Backend, Behind
from api.sign_in import Issued
from domain.errors import (
    FirstPasswordExpired,
    InvalidInput,
    SecondFactorRequired,
    SecondFactorWrong,
    Unauthenticated,
    VitalgridError,
)
from domain.principals import Caller, Kind, Must
from runtime.password_hashes import MAX_PASSWORD_CHARS
from runtime.password_policy import MIN_PASSWORD_CHARS
from runtime.sql.sessions import says_why

router = APIRouter(include_in_schema=False)
_WRONG: Final = "用户名或密码不对，或账户已锁定、停用。Not let in: name or password is wrong, or locked for now."
_NOT_LET_IN: Final[Mapping[type[Unauthenticated], str]] = {
    SecondFactorRequired: "请同时输入密码和验证码。Enter the password and, with it, a code of your app or a recovery code.",
    SecondFactorWrong: "验证码不对或已用过，请等下一个。The code is wrong, or was used before: wait for the next one.",
    FirstPasswordExpired: "初始密码已过期，请管理员重置。The first password is too old: have another one given.",
}


@router.get(LOGIN_URL)
async def login_page(next: Annotated[str, Query()] = HOME_URL, why: Annotated[str, Query()] = "") -> Response:  # noqa: A002 (the page's word)
    """The form, and why there is one again."""
    return _login(next, says_why(why))


@router.post(LOGIN_URL)
async def login(request: Request, behind: Behind) -> Response:
    """Begin a session in a cookie."""
    fields = await fields_of(request)
    leads_to, name = fields.get("next"), fields.get("username", "")
    try:
        password, code = fields.get("password", ""), fields.get("totp", "")
        issued = await behind.sign_in.with_password(name, password, address_of(request), code)
    except Unauthenticated as error:
        return _login(leads_to, _NOT_LET_IN.get(type(error), _WRONG), name, 401)
    except VitalgridError as error:
        return _login(leads_to, str(error), name, problem_type(type(error)).status)
    return _signed_in(issued, behind, PASSWORD_URL if issued.must_change else local_path(leads_to))


@router.post("/logout")
async def logout(request: Request, behind: Behind) -> Response:
    """End the session of the cookie. Without one, or with one that ended, it is the same."""
    check_origin(request)
    name = cookie_name(over_tls=behind.services.over_tls)
    token = cookie_of(request.scope, name)
    if token is not None:
        await behind.sign_in.sign_out(token, address_of(request))
    response = RedirectResponse(LOGIN_URL, 303, HEADERS)
    response.delete_cookie(name, secure=behind.services.over_tls, httponly=True, samesite="strict")
    return response


@router.get(HOME_URL)
async def home(request: Request) -> Response:
    """Who is signed in, and where to go from here."""
    caller: Caller = request.scope[CALLER_KEY]
    is_user = caller.principal.kind is Kind.USER
    return shown("home", title=caller.principal.name, name=caller.principal.name, grants=caller.grants, is_user=is_user)


@router.get(PASSWORD_URL)
async def password_page(request: Request) -> Response:
    """The form for one's own password."""
    return _password(request.scope[CALLER_KEY])


@router.post(PASSWORD_URL)
async def change_password(request: Request, behind: Behind) -> Response:
    """Change it; the session goes on as a new one."""
    caller: Caller = request.scope[CALLER_KEY]
    fields = await fields_of(request)
    try:
        if fields.get("new") != fields.get("again"):
            raise InvalidInput("两次输入的新密码不一致。The two new passwords are not the same.")
        present, new = fields.get("present", ""), fields.get("new", "")
        issued = await behind.sign_in.change_password(caller, present, new, address_of(request))
    except VitalgridError as error:
        return _password(caller, str(error), problem_type(type(error)).status)
    return _signed_in(issued, behind, HOME_URL)


def _signed_in(issued: Issued, behind: Backend, leads_to: str) -> Response:
    response = RedirectResponse(leads_to, 303, HEADERS)
    is_over_tls = behind.services.over_tls
    name = cookie_name(over_tls=is_over_tls)
    response.set_cookie(name, issued.access_token, secure=is_over_tls, httponly=True, samesite="strict")
    return response


def _login(leads_to: str | None, problem: str, name: str = "", status: int = 200) -> Response:
    return shown("login", status, title="登录", problem=problem, name=name, next=local_path(leads_to))


def _password(caller: Caller, problem: str = "", status: int = 200) -> Response:
    limits = {"shortest": MIN_PASSWORD_CHARS, "longest": MAX_PASSWORD_CHARS}
    name, must = caller.principal.name, caller.must is Must.PASSWORD_CHANGE
    return shown("password", status, title="修改密码", problem=problem, name=name, must=must, **limits)
