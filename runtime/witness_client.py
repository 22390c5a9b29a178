"""Asks one witness over HTTP, on a connection that stays: at an address, or at a socket in a folder of this machine.

A socket is reached through its folder's descriptor, because its own path may be longer than a socket's may be. A whole
answer has a deadline: a socket's own timeout begins anew with every byte, and a witness might send one a second for ever.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from domain.errors import Unavailable
from runtime.tls import Trust

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

TIMEOUT_S: Final = 3.0
_MOST_BYTES: Final = 64 * 1024


class Reply(NamedTuple):
    status: int
    body: bytes


def listen_at(path: Path) -> socket.socket:
    """A socket at `path` that nobody but the owner of its folder reaches; one left behind is replaced."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short(path) as short:
        listener.bind(short)
    path.chmod(0o600)
    listener.listen(64)
    return listener


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("witness", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with _short(self._path) as short:
            self.sock.connect(short)


class _Until(io.RawIOBase):
    """What a socket gives until a moment. Raises TimeoutError then."""

    def __init__(self, sock: socket.socket, until_s: float) -> None:
        self._sock = sock
        self._reader = sock.makefile("rb", buffering=0)
        self._until_s = until_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("its answer takes too long")
        self._sock.settimeout(left_s)
        return self._reader.readinto(buffer)

    def close(self) -> None:
        self._reader.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *, until_s: float, **options: Any) -> None:
        super().__init__(sock, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Until(sock, until_s))


class WitnessClient:
    """See module. Calls come from one thread at a time."""

    def __init__(self, where: str | Path, trust: Trust | None = None) -> None:
        """`where`: a URL (http, https), or a socket's path. `trust`: by what a witness with https is known."""
        self._prefix = "" if isinstance(where, Path) else urlsplit(where).path.rstrip("/")
        self._connection = _connection(where, trust or Trust())

    def post(self, path: str, body: bytes) -> Reply:
        """Raises Unavailable when no answer comes."""
        return self._ask("POST", path, body)

    def get(self, path: str) -> Reply:
        """Raises Unavailable when no answer comes."""
        return self._ask("GET", path, None)

    def close(self) -> None:
        self._connection.close()

    def _ask(self, method: str, path: str, body: bytes | None) -> Reply:
        until_s = time.monotonic() + TIMEOUT_S
        try:
            try:
                return self._asked(method, path, body, until_s)
            except (http.client.HTTPException, ConnectionError):  # the other side ended a connection that was idle
                self._connection.close()
                return self._asked(method, path, body, until_s)
        except (http.client.HTTPException, OSError) as error:
            self._connection.close()
            raise Unavailable(f"it does not answer ({type(error).__name__}: {error})") from None

    def _asked(self, method: str, path: str, body: bytes | None, until_s: float) -> Reply:
        self._connection.response_class = functools.partial(_Response, until_s=until_s)  # type: ignore[assignment]
        if self._connection.sock is not None:
            self._connection.sock.settimeout(TIMEOUT_S)  # the answer before left less
        self._connection.request(method, self._prefix + path, body)
        response = self._connection.getresponse()
        content = response.read(_MOST_BYTES)
        if not response.isclosed():
            self._connection.close()  # more than any answer has
        return Reply(response.status, content)


def _connection(where: str | Path, trust: Trust) -> http.client.HTTPConnection:
    if isinstance(where, Path):
        return _SocketConnection(where)
    url = urlsplit(where)
    if url.scheme == "https":
        return http.client.HTTPSConnection(url.hostname or "", url.port, timeout=TIMEOUT_S, context=trust.context())
    return http.client.HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT_S)
