"""Other people's attackers: slowhttptest beside an honest client, testssl.sh at each port that speaks TLS. Debian packages."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import psutil

from tests.running_platform import RunningPlatform

SLOW: Final[dict[str, tuple[str, ...]]] = {
    "slowhttptest -H": ("-H", "-i", "5", "-t", "GET", "-x", "24"),
    "slowhttptest -B": ("-B", "-i", "5", "-s", "8192", "-t", "POST"),
    "slowhttptest -X": ("-X", "-w", "10", "-y", "20", "-n", "5", "-z", "32", "-k", "3"),
}
_SEVERE: Final = frozenset({"MEDIUM", "HIGH", "CRITICAL"})
# the platform's own authority publishes no list of what it revoked: a certificate whose key was taken is made anew
_EXPECTED: Final = frozenset({"cert_revocation"})


def slow_command(name: str, url: str, seconds: float) -> list[str]:
    return ["slowhttptest", "-c", "800", "-r", "200", "-p", "1", "-l", str(round(seconds)), "-u", url, *SLOW[name]]


def findings(report: Path) -> list[str]:
    """What testssl.sh holds against a port, of medium severity or above, other than what is meant to be so."""
    found = json.loads(report.read_text())
    return [
        f"{one['id']}: {one['severity']}, {one['finding']}" for one in found
        if one["severity"] in _SEVERE and one["id"] not in _EXPECTED
    ]  # fmt: skip


def tls_ports(platform: RunningPlatform) -> dict[str, int]:
    """Who listens where by TLS, of all that the platform started: doors, API, bus, and Ray's ports but its agent's."""
    root = psutil.Process(platform.process.pid)
    pids = {child.pid for child in root.children(recursive=True)} | {root.pid, *platform.connection.process_pids.values()}
    roles = {pid: role for role, pid in platform.connection.process_pids.items()} | {root.pid: "supervisor"}
    found = {}
    for one in psutil.net_connections("tcp"):
        if one.status == psutil.CONN_LISTEN and one.pid in pids:
            name = roles.get(one.pid) or psutil.Process(one.pid).name()
            if name != "ray::RuntimeEnvAgent":
                found[f"{name}:{one.laddr.port}"] = one.laddr.port
    return found


async def scan(platform: RunningPlatform, port: int) -> list[str]:
    """What testssl.sh finds at a port; the platform's authority is trusted, and that of Ray's processes."""
    authorities = [str(platform.data_dir / "pki" / name) for name in ("ca.pem", "ray/ca.pem")]
    with tempfile.TemporaryDirectory(prefix="vitalgrid-testssl-") as folder:
        report = Path(folder) / "report.json"
        process = await asyncio.create_subprocess_exec(
            "testssl", "--quiet", "--warnings", "off", "--color", "0", "--add-ca", ",".join(authorities),
            "--jsonfile", str(report), f"127.0.0.1:{port}",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await process.wait()
        return findings(report)


def fuzz(platform: RunningPlatform, *, examples: int, seconds: float, seed: int = 1) -> tuple[int, str]:
    """schemathesis over the OpenAPI description, as an administrator: its exit code, and what it says.

    Not asked: live streams, which do not end; scenarios, which would be played; passwords and tokens, it would lock itself out;
    `/ready`, whose 503 is an answer.
    """
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{platform.connection.api_url}/openapi.json",
        "--checks", "not_a_server_error", "--phases", "fuzzing", "--max-examples", str(examples), "--workers", "2",
        "--max-time", str(seconds), "--seed", str(seed), "--request-timeout", "20", "--no-color", "--no-shrink",
        "--generation-database", "none", "--exclude-path-regex", "/live/|/scenarios|^/oauth|/me/password|/tokens|/ready$",
        "-H", f"Authorization: Bearer {platform.token}", "-H", "X-Reason: schemathesis",
    ]  # fmt: skip
    if platform.connection.api_trust is not None:
        command += ["--tls-verify", str(platform.data_dir / "pki" / "ca.pem")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False, cwd=platform.data_dir)
    return done.returncode, done.stdout + done.stderr
