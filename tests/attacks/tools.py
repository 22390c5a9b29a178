"""Other people's attackers: slowhttptest beside an honest client, testssl.sh at each port that speaks TLS. Debian packages."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import psutil

from domain.bus_rights import OBSERVER
from tests.running_platform import RunningPlatform

SLOW: Final[dict[str, tuple[str, ...]]] = {
    "slowhttptest -H": ("-H", "-i", "5", "-t", "GET", "-x", "24"),
    "slowhttptest -B": ("-B", "-i", "5", "-s", "8192", "-t", "POST"),
    "slowhttptest -X": ("-X", "-w", "10", "-y", "20", "-n", "5", "-z", "32", "-k", "3"),
}
_ANSWERED_S: Final = 60  # by then, on a machine that does other things too; a new host of shards takes seconds to start
_PROBE_S: Final = 30.0
_CUT_S: Final = 5.0
_SEVERE: Final = frozenset({"MEDIUM", "HIGH", "CRITICAL"})
# the platform's own authority publishes no list of what it revoked: a certificate whose key was taken is made anew
_EXPECTED: Final = frozenset({"cert_revocation"})
# what a report of a port that was scanned says something about, whatever it is
_LOOKED_AT: Final = ("SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2", "TLS1_3", "cipherlist_NULL", "cipherlist_STRONG",
                     "cert_trust", "heartbleed", "ROBOT", "scanTime")  # fmt: skip
_SPOKEN: Final = ("TLS1_2", "TLS1_3")
_UNTESTED: Final = frozenset({"WARN", "FATAL"})
# where a client has to show a certificate testssl.sh cannot ask these two; `renegotiates` asks the first, and the second is
# of answers by HTTP, of which such a port has none
_BEHIND_A_CERTIFICATE: Final = frozenset({"secure_client_renego", "BREACH"})
# whether every request that fits the description is accepted: rules between fields (a start before its end, X-Unmask with a
# reason), cursors and names of time zones are no part of what JSON Schema says
_UNSUITABLE: Final = ("positive_data_acceptance",)
# a drawn name of a zone is none, and behind that refusal nothing else of a route would be met
_GIVEN: Final = '[parameters]\n"query.tz" = "Asia/Shanghai"\n'
_WANTS_ONE: Final = "client x509-based authentication prevents"


def slow_command(name: str, url: str, seconds: float) -> list[str]:
    return ["slowhttptest", "-c", "800", "-r", "200", "-p", "1", "-l", str(round(seconds)), "-u", url, *SLOW[name]]


def findings(report: Path, *, wants_certificate: bool = False) -> list[str]:
    """What testssl.sh holds against a port, of medium severity or above, other than what is meant to be so; and what it could
    not test there. A port that was not scanned is none that is clean.

    `wants_certificate`: of a port that answers nobody who shows none.
    """
    try:
        found = json.loads(report.read_text())
    except (OSError, ValueError) as error:
        return [f"not scanned: there is no report ({type(error).__name__})"]
    told = {one["id"]: one for one in found}
    held = [f"not scanned: nothing is said about {name}" for name in _LOOKED_AT if name not in told]
    if not any(told.get(version, {}).get("finding", "").startswith("offered") for version in _SPOKEN):
        held.append("not scanned: no version of TLS was spoken")
    for one in found:
        is_behind = one["id"] in _BEHIND_A_CERTIFICATE and one["finding"].startswith(_WANTS_ONE)
        if one["severity"] in _UNTESTED and not (wants_certificate and is_behind):
            held.append(f"not tested: {one['id']}, {one['finding']}")
        elif one["severity"] in _SEVERE and one["id"] not in _EXPECTED:
            held.append(f"{one['id']}: {one['severity']}, {one['finding']}")
    return held


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


def shown_at(platform: RunningPlatform, name: str) -> tuple[Path, Path] | None:
    """Whose certificate, and by which authority, a port takes that answers nobody else; None: it answers everybody."""
    pki = platform.data_dir / "pki"
    who = name.partition(":")[0]
    if who in ("api", "doors"):
        return None
    return (pki / f"bus-{OBSERVER}.pem", pki / "ca.pem") if who == "nats-server" else (pki / "ray/node.pem", pki / "ray/ca.pem")


async def scan(platform: RunningPlatform, name: str, port: int) -> list[str]:
    """What testssl.sh finds at a port; the platform's authority is trusted, and that of Ray's processes."""
    authorities = [str(platform.data_dir / "pki" / name) for name in ("ca.pem", "ray/ca.pem")]
    shown = shown_at(platform, name)
    with tempfile.TemporaryDirectory(prefix="vitalgrid-testssl-") as folder:
        report = Path(folder) / "report.json"
        process = await asyncio.create_subprocess_exec(
            "testssl", "--quiet", "--warnings", "off", "--color", "0", "--add-ca", ",".join(authorities),
            "--jsonfile", str(report), f"127.0.0.1:{port}",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await process.wait()
        found = findings(report, wants_certificate=shown is not None)
    if shown is not None and not await refuses_renegotiation(port, *shown):
        found.append("secure_client_renego: a client that shows its certificate may renegotiate, or did not get in")
    return found


async def refuses_renegotiation(port: int, certificate: Path, authority: Path) -> bool:
    """Whether a client is let in by TLS 1.2, and cut off when it wants to renegotiate."""
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-tls1_2", "-alpn", "h2", "-connect", f"127.0.0.1:{port}", "-cert", str(certificate),
        "-key", str(certificate), "-CAfile", str(authority), "-verify_return_error", "-no_ign_eof",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    said = b""
    async with asyncio.timeout(_PROBE_S):
        while b"Verify return code: 0 (ok)" not in said:
            if not (more := await process.stdout.read(65_536)):
                await process.wait()
                return False
            said += more
        if b"New, TLSv1.2" not in said:
            process.kill()
            await process.wait()
            return False
        process.stdin.write(b"R\n")
        with contextlib.suppress(ConnectionError):
            await process.stdin.drain()
        while b"RENEGOTIATING" not in said and (more := await process.stdout.read(65_536)):
            said += more
        try:  # who is let do it stays connected
            async with asyncio.timeout(_CUT_S):
                return await process.wait() != 0
        except TimeoutError:
            process.kill()
            await process.wait()
            return False


def fuzz(platform: RunningPlatform, *, phase: str, examples: int, seconds: float, seed: int = 1) -> tuple[int, str]:
    """schemathesis over the OpenAPI description, as an administrator: its exit code, and what it says.

    `phase`: `fuzzing` (drawn values), `coverage` (each bound of the description, and what is just beyond it: methods, types,
    credentials left out), `stateful` (what one request made is asked for by the next).

    Not asked: live streams, which do not end; scenarios, which would be played; passwords and tokens, it would lock itself out;
    `/ready`, whose 503 is an answer. All checks but those of `_UNSUITABLE`.
    """
    config = platform.data_dir / "schemathesis.toml"
    config.write_text(_GIVEN)
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run",
        f"{platform.connection.api_url}/openapi.json", "--checks", "all", "--exclude-checks", ",".join(_UNSUITABLE),
        "--phases", phase, "--max-examples", str(examples), "--workers", "2", "--continue-on-failure",
        "--max-time", str(seconds), "--seed", str(seed), "--request-timeout", str(_ANSWERED_S), "--no-color", "--no-shrink",
        "--generation-database", "none", "--max-response-time", str(_ANSWERED_S),
        "--exclude-path-regex", "/live/|/scenarios|^/oauth|/me/password|/tokens|/ready$",
        "-H", f"Authorization: Bearer {platform.token}", "-H", "X-Reason: schemathesis",
    ]  # fmt: skip
    if platform.connection.api_trust is not None:
        command += ["--tls-verify", str(platform.data_dir / "pki" / "ca.pem")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False, cwd=platform.data_dir)
    return done.returncode, done.stdout + done.stderr
