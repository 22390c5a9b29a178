"""What testssl.sh says is judged: a port that it could not scan, or not wholly, is none that is clean. Clause 9.1b."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runtime.certificates import Authority, Wanted
from tests.attacks.tools import findings, refuses_renegotiation
from tests.openssl import needs_openssl

pytestmark = pytest.mark.clause("9.1b")

CLEAN = {
    "SSLv2": "not offered", "SSLv3": "not offered", "TLS1": "not offered", "TLS1_1": "not offered", "TLS1_2": "offered",
    "TLS1_3": "offered with final", "cipherlist_NULL": "not offered", "cipherlist_STRONG": "offered",
    "cert_trust": "Ok via SAN", "heartbleed": "not vulnerable", "ROBOT": "not vulnerable", "scanTime": "61",
}  # fmt: skip
BEHIND = "client x509-based authentication prevents this from being tested"


@pytest.fixture
def judged(tmp_path: Path):
    """What is found in a report of a clean port, but for lines that are left out or are there too."""

    def judge(*also: tuple[str, str, str], without: tuple[str, ...] = (), wants_certificate: bool = False) -> list[str]:
        lines = [{"id": name, "severity": "OK", "finding": says} for name, says in CLEAN.items() if name not in without]
        lines += [{"id": name, "severity": severity, "finding": says} for name, severity, says in also]
        file = tmp_path / "report.json"
        file.write_text(json.dumps(lines))
        return findings(file, wants_certificate=wants_certificate)

    return judge


def test_a_clean_port_is_clean_and_what_is_severe_is_told(judged) -> None:
    assert judged(("LUCKY13", "LOW", "potentially vulnerable"), ("cert_revocation", "HIGH", "no URI")) == []
    assert judged(("BEAST", "MEDIUM", "vulnerable")) == ["BEAST: MEDIUM, vulnerable"]


@pytest.mark.parametrize("name", CLEAN)
def test_a_report_that_leaves_something_out_is_of_no_clean_port(judged, name: str) -> None:
    assert f"not scanned: nothing is said about {name}" in judged(without=(name,))


@pytest.mark.parametrize(("name", "severity", "says"), [
    ("scanProblem", "FATAL", "Can't connect to '127.0.0.1:1'"), ("scanTime", "WARN", "Scan interrupted"),
    ("secure_renego", "WARN", "OpenSSL handshake didn't succeed"), ("secure_client_renego", "WARN", BEHIND),
])  # fmt: skip
def test_what_could_not_be_tested_is_told(judged, name: str, severity: str, says: str) -> None:
    assert judged((name, severity, says)) == [f"not tested: {name}, {says}"]


def test_where_a_certificate_is_wanted_only_the_two_questions_behind_it_stay_open(judged) -> None:
    behind = [(name, "WARN", BEHIND) for name in ("secure_client_renego", "BREACH")]
    assert judged(*behind, wants_certificate=True) == []
    assert judged(("BREACH", "WARN", "stalled"), wants_certificate=True) == ["not tested: BREACH, stalled"]
    assert judged(("CCS", "WARN", BEHIND), wants_certificate=True) == [f"not tested: CCS, {BEHIND}"]


def test_a_port_that_speaks_no_tls_and_one_without_a_report_are_not_scanned(tmp_path: Path, judged) -> None:
    silent = [(name, "INFO", "not offered") for name in ("TLS1_2", "TLS1_3")]
    assert judged(*silent, without=("TLS1_2", "TLS1_3")) == ["not scanned: no version of TLS was spoken"]
    assert findings(tmp_path / "none.json") == ["not scanned: there is no report (FileNotFoundError)"]
    (tmp_path / "half.json").write_text('[{"id": "service"')
    assert findings(tmp_path / "half.json") == ["not scanned: there is no report (JSONDecodeError)"]


@contextmanager
def server(folder: Path, *also: str) -> Iterator[tuple[int, Path, Path]]:
    """A port that wants a certificate, one that it takes, and the authority of both."""
    authority = Authority(folder)
    authority.make_missing("sz", datetime.now(UTC))
    authority.keep(Wanted("node", frozenset({"127.0.0.1"}), is_server=True, is_peer=True), datetime.now(UTC))
    node = authority.file_of("node")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(node), "-key", str(node), "-quiet"]
    with subprocess.Popen([*command, "-CAfile", str(authority.file), "-Verify", "1", "-verify_return_error", *also],
                          stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:  # fmt: skip
        until_s = time.monotonic() + 20
        while time.monotonic() < until_s:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        try:
            yield port, node, authority.file
        finally:
            running.terminate()


@needs_openssl
@pytest.mark.parametrize(("also", "refuses"), [((), True), (("-client_renegotiation",), False), (("-no_tls1_2",), False)])
def test_renegotiation_is_asked_for_behind_a_certificate(tmp_path: Path, also: tuple[str, ...], refuses: bool) -> None:
    with server(tmp_path, *also) as (port, certificate, authority):
        assert asyncio.run(refuses_renegotiation(port, certificate, authority)) is refuses
