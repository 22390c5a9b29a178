"""Cursor paging: `limit`, an opaque `cursor`, and the way on both in the body (`next`) and as a Link header.

A cursor holds the sort key of the last row shown and is bound to the path and filters it was made for. It is no secret and
anybody can make one: each list says of what parts its key is (`paged_by`), and a handler sees no other.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, TypeAlias, TypeVar

import msgspec
from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, Field

from domain.errors import InvalidInput

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 1000
Part: TypeAlias = range | type[str]  # of a sort key: a whole number among those, or text
NUMBER: Final = range(-(2**63), 2**63)  # what the databases take
TEXT: Final = str
_PAGING_KEYS: Final = frozenset({"cursor", "limit", "tz"})
T = TypeVar("T")
_decoder: Final = msgspec.json.Decoder(tuple[int, list[str | int]])


class Page(BaseModel, Generic[T]):
    """One page. `next` is the link to the following one; null on the last."""

    items: list[T]
    next: str | None = Field(None, description="Link to the next page.")


@dataclass(frozen=True, slots=True)
class Paging:
    """What page is asked for. `after` is the sort key to continue behind (None: from the start)."""

    limit: int
    after: tuple[Any, ...] | None
    request: Request
    response: Response

    def page(self, items: list[T], after: Sequence[Any] | None) -> Page[T]:
        """The page of `items`, with the link to the one behind the key `after` (None: this is the last)."""
        return Page[T](items=items, next=self.link_after(after))

    def link_after(self, key: Sequence[Any] | None) -> str | None:
        """The link to the page that starts behind `key`, set as the Link header too; None where there is none."""
        if key is None:
            return None
        link = next_link(self.request, key)
        self.response.headers["Link"] = f'<{link}>; rel="next"'
        return link


def next_link(request: Request, key: Sequence[Any]) -> str:
    """The present request's path and query, going on behind `key`."""
    url = request.url.include_query_params(cursor=encode_cursor(list(key), _filters_of(request)))
    return f"{url.path}?{url.query}"


def cursor_key(request: Request, cursor: str | None, parts: Sequence[Part]) -> tuple[Any, ...] | None:
    """The key of such `parts` inside a cursor that was made for this path and these filters. Raises InvalidInput."""
    if cursor is None:
        return None
    key = decode_cursor(cursor, _filters_of(request))
    if len(key) != len(parts) or not all(map(_fits, key, parts)):
        raise InvalidInput("the cursor is not one of this list: expected that of a 'next' link")
    return tuple(key)


def _fits(value: str | int, part: Part) -> bool:
    if isinstance(part, range):
        return isinstance(value, int) and value in part
    return isinstance(value, str) and "\0" not in value  # PostgreSQL takes no such text


def encode_cursor(key: Sequence[Any], filters: str) -> str:
    body = msgspec.json.encode([zlib.crc32(filters.encode()), key])
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def decode_cursor(cursor: str, filters: str) -> list[Any]:
    """The key inside; raises InvalidInput for one that we did not make, or made for other filters."""
    try:
        check, key = _decoder.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, msgspec.DecodeError):
        raise InvalidInput(f"cursor {cursor[:40]!r} is not one of ours: expected that of a 'next' link") from None
    if check != zlib.crc32(filters.encode()):
        raise InvalidInput("the cursor was made for another path or other filters: keep them while paging")
    return key


def _filters_of(request: Request) -> str:
    pairs = sorted((key, value) for key, value in request.query_params.multi_items() if key not in _PAGING_KEYS)
    return f"{request.url.path}?{pairs}"


def paged_by(*parts: Part) -> Any:
    """A parameter of a list: the page asked for, by a key of these `parts`. Any other cursor is refused as invalid input."""

    async def paging(
        request: Request,
        response: Response,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Most items on the page.")] = DEFAULT_LIMIT,
        cursor: Annotated[str | None, Query(description="Opaque; from the `next` link of the page before.")] = None,
    ) -> Paging:
        return Paging(limit, cursor_key(request, cursor, parts), request, response)

    return Depends(paging)


PagedByName = Annotated[Paging, paged_by(TEXT)]
PagedByNumber = Annotated[Paging, paged_by(NUMBER)]
PagedByNumbers = Annotated[Paging, paged_by(NUMBER, NUMBER)]
