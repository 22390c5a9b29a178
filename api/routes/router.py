"""How the routers of the API are made."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from api.errors import InternalError, ValidationFailed, problems
from api.paths import PREFIX
from domain.errors import Forbidden, Unauthenticated, Unavailable

EVERYWHERE: Final = problems(Unauthenticated, Forbidden, ValidationFailed, Unavailable, InternalError)


def api_router(prefix: str = "", *, tags: list[str]) -> APIRouter:
    """A router whose routes are whole: the application takes them as they are.

    `FastAPI.include_router` makes of each route a second one, at the first request of each application: a second of work.
    """
    return APIRouter(prefix=PREFIX + prefix, tags=list(tags), responses=EVERYWHERE)
