"""What doors remember of whom they heard, for traces: the last requests of HTTP, and connections that have ended.

One row for a request or a connection, none for a reading; a message of MQTT is known by the connection that was its
sender's then. In memory, bounded. No token, no payload. Clause 9.2a.
"""

from __future__ import annotations

import itertools
import secrets
from collections import deque
from collections.abc import Collection
from typing import Final

from domain.traces import ConnectionStamp, RequestStamp

_REQUESTS: Final = 16_384
_CONNECTIONS: Final = 16_384


class DoorStamps:
    """See module. `next_id`: names a connection or request in logs and traces, once for all starts of a door."""

    def __init__(self, protocol: str) -> None:
        self._name = f"{protocol}-{secrets.token_hex(3)}"
        self._numbers = itertools.count(1)
        self._requests: deque[RequestStamp] = deque(maxlen=_REQUESTS)
        self._ended: deque[ConnectionStamp] = deque(maxlen=_CONNECTIONS)

    def next_id(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    def stored(self, request: RequestStamp) -> None:
        self._requests.append(request)

    def ended(self, connection: ConnectionStamp) -> None:
        self._ended.append(connection)

    def requests_of(self, sequence: int) -> list[RequestStamp]:
        """The requests whose readings went into the message at `sequence`."""
        return [request for request in self._requests if request.sequence == sequence]

    def ended_of(self, senders: Collection[int], at_us: int) -> list[ConnectionStamp]:
        """Connections of these senders that were open then, and are no more."""
        return [one for one in self._ended if one.sender in senders and one.since_us <= at_us <= (one.until_us or one.since_us)]
