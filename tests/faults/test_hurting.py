"""What a fault does to a process while other faults happen, and what an order does while there is nothing to order."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from tests.faults.fault_run import FaultBench
from tests.faults.orders import swap_hosts
from tests.faults.schedule import Fault
from tests.faults.stand import Stand


class OneProcess:
    """A stand whose platform is one process that does nothing; its role is `up`."""

    raylets = None

    def __init__(self) -> None:
        self.starts = 0
        self.running = SimpleNamespace(process=self._launch())

    @staticmethod
    def _launch() -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "60"])

    def pids(self, _role: str) -> list[int]:
        return [self.running.process.pid] if self.running.process.poll() is None else []

    async def start(self) -> None:
        self.starts += 1
        self.running.process = self._launch()


@pytest.fixture
def stand() -> Iterator[OneProcess]:
    stand = OneProcess()
    yield stand
    stand.running.process.kill()
    stand.running.process.wait()


async def test_a_platform_that_is_killed_while_it_stands_still_is_started_once(stand):
    bench = FaultBench(cast(Stand, stand))
    async with asyncio.TaskGroup() as group:
        group.create_task(bench.hurt(Fault(0.0, "stop", "up", 0.5)))
        await asyncio.sleep(0)
        group.create_task(bench.hurt(Fault(0.0, "kill", "up")))
    assert stand.starts == 1


class _Hosts(BaseHTTPRequestHandler):
    """An API of a platform whose hosts are all gone with Ray, and come back after the third question."""

    questions: ClassVar[int] = 0
    wanted: ClassVar[int] = 2
    removed: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        _Hosts.questions += 1
        names = [] if self.questions < 4 else [f"host-{n}" for n in range(1, 1 + self.wanted)]
        self._answer({"wanted": self.wanted, "hosts": [{"name": name, "state": "working"} for name in names]})

    def do_POST(self) -> None:
        _Hosts.wanted += 1
        self._answer({})

    def do_DELETE(self) -> None:
        _Hosts.wanted -= 1
        self.removed.append(self.path.rpartition("/")[2])
        self._answer({})

    def _answer(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


async def test_hosts_are_swapped_once_there_are_hosts_again():
    server = HTTPServer(("127.0.0.1", 0), _Hosts)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    running = SimpleNamespace(token="t", connection=SimpleNamespace(api_url=url))
    try:
        await swap_hosts(cast(Stand, SimpleNamespace(running=running)), 0.5)
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
    assert (_Hosts.removed, _Hosts.wanted) == (["host-2"], 2)
