"""Orders of commands to the API of a running platform."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

import httpx

from cluster.connection import admin_token_file
from domain.errors import InvalidInput, Unavailable, VitalgridError
from scenarios.target import Target

_TIMEOUT_S: Final = 70.0
_FORBIDDEN: Final = 403
_GIVING: Final = ("/tokens", "/users")  # what this machine's token may not give, no token that it makes may either
_HINT: Final = (
    "; this machine's own token gives orders and reads no patient: come with one of a role that may (docs/permissions.md),"
    " by --token or VITALGRID_TOKEN; `vitalgrid token add NAME --role ROLE` makes it"
)


def ask(target: Target, method: str, path: str, body: Any = None, *, reason: str) -> dict[str, Any]:
    """The answer to one request, whose `reason` stands in the write log; nothing, where nothing is answered.

    Raises InvalidInput with the API's own sentence for what it refuses, and Unavailable.
    """
    answer = _answer(target, method, path, body, reason)
    assert isinstance(answer, dict)
    return answer


def ask_list(target: Target, path: str, *, reason: str) -> list[dict[str, Any]]:
    """As `ask`, to GET a list."""
    answer = _answer(target, "GET", path, None, reason)
    assert isinstance(answer, list)
    return answer


def ask_pages(target: Target, path: str, *, reason: str) -> Iterator[dict[str, Any]]:
    """As `ask`, to GET all that a list holds, page by page."""
    following: str | None = path
    while following is not None:
        page = ask(target, "GET", following, reason=reason)
        yield from page["items"]
        following = page["next"] and page["next"].removeprefix("/api/v1")


def in_path(name: str) -> str:
    """A name as it stands in a path: whatever it holds, it is one segment."""
    return quote(name, safe="")


def _answer(target: Target, method: str, path: str, body: Any, reason: str) -> Any:
    if not target.token.isascii():
        raise InvalidInput("the token has letters that no token has: expected one as it was shown when it was made")
    headers = {"Authorization": f"Bearer {target.token}", "X-Reason": reason}
    try:
        answer = httpx.request(
            method, f"{target.api_url}/api/v1{path}", headers=headers, json=body, timeout=_TIMEOUT_S, trust_env=False,
            verify=target.api_tls(),
        )  # fmt: skip
        said = answer.json() if answer.content else {}
    except (httpx.HTTPError, ValueError) as error:
        raise Unavailable(f"the API at {target.api_url} does not answer: {str(error) or type(error).__name__}") from error
    if answer.is_success:
        return said
    kind: type[VitalgridError] = Unavailable if answer.is_server_error else InvalidInput
    detail = said.get("detail", f"the API answered {answer.status_code}")
    is_hinted = answer.status_code == _FORBIDDEN and not path.startswith(_GIVING) and _is_this_machines(target)
    raise kind(f"{detail}{_HINT}" if is_hinted else detail)


def _is_this_machines(target: Target) -> bool:
    """Whether the caller came with the token that lies on this machine, and not with one of their own."""
    try:
        return target.data_dir is not None and admin_token_file(target.data_dir).read_text().strip() == target.token
    except OSError:
        return False
