"""Cursor paging: `limit`, an opaque `cursor`, and the way on both in the body (`next`) and as a Link header.

A cursor holds the sort key of the last row shown and is bound to the path and filters it was made for.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, Field

from domain.errors import InvalidInput

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 1000
_PAGING_KEYS: Final = frozenset({"cursor", "limit", "tz"})
T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """One page. `next` is the link to the following one; null on the last."""

    items: list[T]
    next: str | None = Field(None, description="Link to the next page.")


@dataclass(frozen=True, slots=True)
class Paging:
    """What page is asked for. `after` is the sort key to continue behind (None: from the start)."""

    limit: int
    after: Any
    request: Request
    response: Response

    def link_after(self, key: object) -> str:
        """The link to the page that starts behind `key`; also set as the Link header."""
        cursor = encode_cursor(key, _filters_of(self.request))
        url = self.request.url.include_query_params(cursor=cursor)
        link = f"{url.path}?{url.query}"
        self.response.headers["Link"] = f'<{link}>; rel="next"'
        return link

    def link_if_more(self, rows: Sequence[object], key: object) -> str | None:
        """The next link when `rows` (up to limit + 1 were asked for) show that more follow."""
        return self.link_after(key) if len(rows) > self.limit else None


def encode_cursor(key: object, filters: str) -> str:
    body = msgspec.json.encode([zlib.crc32(filters.encode()), key])
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def decode_cursor(cursor: str, filters: str) -> Any:
    """The key inside; raises InvalidInput for one that we did not make, or made for other filters."""
    try:
        check, key = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError, msgspec.DecodeError):
        raise InvalidInput(f"cursor {cursor[:40]!r} is not one of ours: expected that of a 'next' link") from None
    if check != zlib.crc32(filters.encode()):
        raise InvalidInput("the cursor was made for another path or other filters: keep them while paging")
    return key


def _filters_of(request: Request) -> str:
    pairs = sorted((key, value) for key, value in request.query_params.multi_items() if key not in _PAGING_KEYS)
    return f"{request.url.path}?{pairs}"


async def _paging(
    request: Request,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Most items on the page.")] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(description="Opaque; from the `next` link of the page before.")] = None,
) -> Paging:
    after = None if cursor is None else decode_cursor(cursor, _filters_of(request))
    return Paging(limit, after, request, response)


Paged = Annotated[Paging, Depends(_paging)]
