"""A Ray cluster of two raylets on this machine, each a node of its own, in a process of its own (`python -m`).

The line it prints says where it is, and the pid of the raylet that may be killed. It ends, and its nodes with it, when
nobody writes to it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import IO, Any, Final

from cluster.ray_environment import prepare_ray

_OBJECT_STORE_BYTES: Final = 80 * 2**20
_END_S: Final = 30.0


class TwoRaylets:
    """The cluster as a test uses it: `address` and `token` are for who joins it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""
        self.token = ""
        self.nodes: list[int] = []  # pids of raylets that may be killed; the first one carries the cluster's own data

    async def start(self, environment: Mapping[str, str]) -> None:
        """`environment`: of the hosts that nodes will start."""
        self._process = subprocess.Popen(  # noqa: ASYNC220 (it only forks here)
            [sys.executable, "-m", "tests.faults.two_raylets"], env={**os.environ, **environment},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        told = json.loads(await asyncio.to_thread(self._process.stdout.readline))
        self.address, self.token, self.nodes = told["address"], told["token"], told["nodes"]

    async def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.communicate, b"", _END_S)
            self._process.kill()


def main() -> None:
    prepare_ray()
    from ray.cluster_utils import Cluster  # noqa: PLC0415 (imports Ray, which reads its environment then)

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray talks; what is read from us is only what we say
    with tempfile.TemporaryDirectory(prefix="vitalgrid-", ignore_cleanup_errors=True) as folder:  # mode 0700
        _run(Cluster, f"{folder}/r", out)


def _run(cluster_of: Any, folder: str, out: IO[str]) -> None:
    size = {"num_cpus": 2, "object_store_memory": _OBJECT_STORE_BYTES, "temp_dir": folder}
    cluster = cluster_of(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    node = cluster.add_node(**size)
    raylets = [info.process.pid for info in node.all_processes["raylet"]]
    out.write(json.dumps({"address": cluster.address, "token": os.environ["RAY_AUTH_TOKEN"], "nodes": raylets}) + "\n")
    out.flush()
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
