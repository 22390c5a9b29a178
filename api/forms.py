"""Forms that programs and pages post (`application/x-www-form-urlencoded`), read strictly."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

from fastapi import Request

from domain.errors import InvalidInput

MEDIA_TYPE: Final = "application/x-www-form-urlencoded"
_MOST_FIELDS: Final = 20
_MOST_BYTES: Final = 16_384
_ADDRESS_CHARS: Final = 64  # an IPv6 address with its zone has room


async def form_of(request: Request) -> dict[str, str]:
    """The fields. Raises InvalidInput, which quotes no value, for another media type, a field that comes twice, or too much."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != MEDIA_TYPE:
        raise InvalidInput(f"the body's media type is {media[:80] or 'not said'}: expected {MEDIA_TYPE}")
    body = await request.body()
    if len(body) > _MOST_BYTES:
        raise InvalidInput(f"the form has {len(body)} bytes: expected at most {_MOST_BYTES}")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:  # no ASCII, no UTF-8 under the percent signs, or too many
        raise InvalidInput(f"the form cannot be read: expected at most {_MOST_FIELDS} percent-encoded fields") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidInput("a field of the form comes twice: expected each once")
    return fields


def address_of(request: Request) -> str:
    """Where a request comes from, as the socket tells, or a trusted proxy (`api.proxies`)."""
    return request.client.host[:_ADDRESS_CHARS] if request.client is not None else "unknown"
