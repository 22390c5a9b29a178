"""A log that holds, one that does not, and one of which nothing could be found out: three answers of both verifiers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.log_commands import log as commands
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LogSigner
from runtime.soft_keys import SoftKeys
from tests.doors import make_certificate
from tests.unit.runtime.test_log_keeper import ORIGIN, received
from tests.unit.runtime.test_log_verifier import flip, run

pytestmark = pytest.mark.clause("9.3e")

HOLDS, DOES_NOT, UNKNOWN = (0, "holds: "), (1, "DOES NOT HOLD: "), (2, "COULD NOT BE CHECKED: ")
SAID = {0: "holds: ", 1: "the log does not hold: ", 2: "the log could not be checked: "}


class _Answers(BaseHTTPRequestHandler):
    """What each path is answered with: 401 for all of it."""

    def do_GET(self) -> None:
        self.send_response(404 if self.path.startswith("/nothing") else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """An address with a certificate, and the authority of that."""
    context, ca = make_certificate(tmp_path_factory.mktemp("tls"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield f"https://127.0.0.1:{server.server_port}", ca
    server.shutdown()
    server.server_close()
    serving.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keeper = LogKeeper.open(tmp_path / "audit", LogSigner(SoftKeys(tmp_path / "keys"), ORIGIN), lambda: os.urandom(32))
    keeper.take(received(1, 2, 3))
    keeper.close()
    return tmp_path / "audit"


@pytest.fixture
def both(folder: Path) -> Callable[..., None]:
    """Asks both verifiers, by the log's own keys unless others are given, and compares what they answer."""

    def ask(expected: tuple[int, str], *arguments: object, keys: list[str] | None = None) -> None:
        keys = (folder / "vkeys").read_text().split() if keys is None else keys
        told = [*map(str, arguments), *(one for key in keys for one in ("--vkey", key))]
        program = run("log", *told, cwd=folder.parent)
        assert (program.returncode, program.stderr) == (expected[0], "")
        assert program.stdout.startswith(expected[1])
        command = CliRunner().invoke(commands, ["verify", *told, "--data-dir", str(folder.parent)])
        assert command.exit_code == expected[0], command.output
        assert SAID[expected[0]] in (str(command.exception) if command.exit_code == 1 else command.output)

    return ask


def test_a_log_that_holds_and_one_that_does_not(both: Callable[..., None], folder: Path) -> None:
    both(HOLDS, folder)
    flip(folder / "tile/0/000.p/3", 5, 1)
    both(DOES_NOT, folder)
    flip(folder / "tile/0/000.p/3", 5, 1)
    (folder / "checkpoint").unlink()
    both(DOES_NOT, folder)


def test_keys_and_files_that_are_of_no_use(both: Callable[..., None], folder: Path) -> None:
    log_key = (folder / "vkeys").read_text().split()[0]
    both(UNKNOWN, folder, keys=["garbage"])
    both(UNKNOWN, folder, "--witness-vkey", "garbage")
    both(UNKNOWN, folder, "--witness-vkey", log_key)  # a log's, and no witness's
    both(UNKNOWN, folder.parent / "nowhere")
    both(UNKNOWN, folder.parent / "keys")  # a folder, and no log
    both(UNKNOWN, folder, "--since", folder / "nowhere")
    both(UNKNOWN, folder, "--since", folder / "vkeys")  # no checkpoint
    (folder / "events.db").unlink()
    (folder / "events.db").mkdir()
    both(UNKNOWN, folder)


def test_an_address_that_is_not_reached_or_does_not_answer(both: Callable[..., None], address: tuple[str, Path]) -> None:
    url, ca = address
    both(UNKNOWN, url)  # by an authority that nobody here knows
    both(UNKNOWN, url, "--ca", ca)  # 401
    both(UNKNOWN, f"{url}/nothing", "--ca", ca)  # no log there
    both(UNKNOWN, url, "--ca", ca.with_name("nowhere"))
    both(UNKNOWN, "https://127.0.0.1:1")
    both(UNKNOWN, "http://[")


def test_a_token_that_would_cross_a_network_in_clear(folder: Path) -> None:
    (folder / "token").write_text("secret")
    done = run("log", "http://log.example/api/v1/log", "--vkey", "k", "--token-file", folder / "token", cwd=folder)
    assert (done.returncode, done.stderr) == (2, "")
    assert "in clear to log.example" in done.stdout


def test_a_proof_that_cannot_be_read(folder: Path) -> None:
    keys = ["--vkey", "garbage"]
    assert run("proof", folder / "nowhere", "--entry", folder / "vkeys", *keys, cwd=folder).returncode == 2
