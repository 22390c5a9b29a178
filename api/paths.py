"""Where the API lies, and by what name logs and figures know a path."""

from __future__ import annotations

from typing import Final

from starlette.types import Scope

PREFIX: Final = "/api/v1"


def template_of(scope: Scope) -> str | None:
    """The template of the route that was met, below `PREFIX`, such as `/hospitals/{hospital_id}`; None before, or for none."""
    path: str | None = getattr(scope.get("route"), "path_format", None)
    return None if path is None else path.removeprefix(PREFIX)
