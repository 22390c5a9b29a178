"""What is different when a browser asks: the session is in a cookie, other sites can make it ask, and people want pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
LOGIN_URL: Final = "/login"
HOME_URL: Final = "/"
_LOCAL_PATH: Final = re.compile(r"/(?![/\\])[A-Za-z0-9/._~-]*")


def cookie_name(*, over_tls: bool) -> str:
    """The session's cookie. `__Host-` makes browsers insist on TLS, and on this host and no other that set it."""
    return "__Host-vitalgrid" if over_tls else "vitalgrid"


def cookie_of(scope: Scope, name: str) -> str | None:
    """The value of a cookie; None when there is none, or when there are several of its name."""
    found = [value for key, value in _cookies(scope) if key == name]
    return found[0] if len(found) == 1 and found[0] else None


def _cookies(scope: Scope) -> Iterator[tuple[str, str]]:
    for raw in _headers(scope, b"cookie"):
        for part in raw.split(";"):
            key, _, value = part.strip().partition("=")
            yield key, value


def is_same_origin(scope: Scope) -> bool:
    """Whether a page of ours made the browser ask. A browser says so by one header or the other; neither: it did not."""
    site = header(scope, b"sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin, host = header(scope, b"origin"), header(scope, b"host")
    return host is not None and origin in (f"http://{host}", f"https://{host}")


def is_page_wanted(scope: Scope) -> bool:
    """Whether a person goes to a page, rather than a script or a program asking for data."""
    mode = header(scope, b"sec-fetch-mode")
    return scope["method"] == "GET" and mode in (None, "navigate") and "text/html" in (header(scope, b"accept") or "")


def is_script(scope: Scope) -> bool:
    """Whether a page's script asks: a challenge for Basic would open the browser's own dialogue over the page."""
    return header(scope, b"sec-fetch-mode") not in (None, "navigate")


def local_path(text: str | None) -> str:
    """`text` when it is a plain path of this host, else the home page: nobody is sent elsewhere after signing in."""
    return text if text is not None and _LOCAL_PATH.fullmatch(text) else HOME_URL


def to_login(scope: Scope, code: str) -> Response:
    """Send a browser to the login page, which says why (by the problem's code) and leads back."""
    why = f"&why={quote(code)}" if code.startswith("session-") else ""
    return RedirectResponse(f"{LOGIN_URL}?next={quote(local_path(scope['path']))}{why}", 303)


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of this name (in small letters)."""
    return next(_headers(scope, name), None)


def _headers(scope: Scope, name: bytes) -> Iterator[str]:
    return (value.decode("latin-1") for key, value in scope["headers"] if key == name)
