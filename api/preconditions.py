"""ETag and If-Match: an update names the version it was made on. 428 without, 412 when that version is stale."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header, Response

from api.errors import PreconditionRequired
from domain.errors import InvalidInput

_ETAG = re.compile(r'(?:W/)?"(\d{1,18})"\Z')


_IfMatch = Annotated[str | None, Header(description='The ETag of the version that is changed, such as `"3"`.')]


async def _expected_version(if_match: _IfMatch = None) -> int:
    if if_match is None:
        raise PreconditionRequired("an update needs If-Match with the ETag it was made on, such as '\"3\"'")
    return _version_of(if_match)


async def _optional_version(if_match: _IfMatch = None) -> int | None:
    return None if if_match is None else _version_of(if_match)


def _version_of(if_match: str) -> int:
    found = _ETAG.match(if_match.strip())
    if found is None:
        raise InvalidInput(f"If-Match {if_match!r} is not one of our ETags: expected one such as '\"3\"'")
    return int(found[1])


ExpectedVersion = Annotated[int, Depends(_expected_version)]
OptionalVersion = Annotated[int | None, Depends(_optional_version)]  # for answers that may be given on any version


def set_etag(response: Response, version: int) -> None:
    response.headers["ETag"] = f'"{version}"'
