"""How the pages of an account are made: plain HTML by one template, no script, nothing from elsewhere. Clause 9.1b."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any, Final

import jinja2
from fastapi import Request, Response
from fastapi.responses import HTMLResponse

from api.browsers import is_same_origin
from api.errors import headers_of
from api.forms import form_of
from api.in_chinese import bilingual
from domain.alarms import INTENDED_USE
from domain.errors import Forbidden

_HERE: Final = Path(__file__).parent
_STYLE: Final = (_HERE / "account.css").read_text(encoding="utf-8")
_PAGE: Final = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
    (_HERE / "account.html.j2").read_text(encoding="utf-8")
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
}


def shown(page: str, status: int = 200, *, problem: str = "", **values: Any) -> Response:
    """One of the template's pages, with what it needs."""
    text = _PAGE.render(page=page, style=_STYLE, problem=bilingual(problem), intended_use=INTENDED_USE, **values)
    return HTMLResponse(text, status, HEADERS | headers_of(status, is_page=True))


def check_origin(request: Request) -> None:
    """Raises Forbidden for a form of another site, which could sign its reader in as somebody else, or out."""
    if not is_same_origin(request.scope):
        raise Forbidden("the form comes from another site: expected one of this site's own pages")


async def fields_of(request: Request) -> dict[str, str]:
    """What a form of ours holds. Raises Forbidden for one of another site, and as `form_of`."""
    check_origin(request)
    return await form_of(request)
