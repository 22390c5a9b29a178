"""What a command says when the API refuses its order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cluster.connection import admin_token_file
from cluster.rest_calls import ask, in_path
from domain.errors import InvalidInput
from scenarios.target import Target


class _Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404 if self.path.endswith("/unknown") else 403)
        self.end_headers()
        self.wfile.write(b'{"detail": "may not"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api_url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.clause("7.2b")
@pytest.mark.parametrize(
    ("token", "path", "is_told"),
    [
        ("the-machines", "/forbidden", True),
        ("my-own", "/forbidden", False),
        ("the-machines", "/unknown", False),
        ("the-machines", "/tokens", False),
        ("the-machines", "/users/li.na/grants", False),
    ],
)
def test_whoever_comes_with_this_machines_token_and_may_not_is_told_what_to_come_with(
    api_url: str, tmp_path: Path, token: str, path: str, is_told: bool
) -> None:
    file = admin_token_file(tmp_path)
    file.parent.mkdir()
    file.write_text("the-machines\n")
    target = Target(api_url, token, "127.0.0.1", 1883, "sz", data_dir=tmp_path)
    with pytest.raises(InvalidInput, match=r"^may not") as refused:
        ask(target, "GET", path, reason="a test")
    assert ("--token" in str(refused.value)) is is_told


def test_a_name_is_one_segment_of_a_path_whatever_it_holds() -> None:
    assert in_path("li.na") == "li.na"
    assert in_path("../x y/é?") == "..%2Fx%20y%2F%C3%A9%3F"


def test_a_token_that_can_be_none_is_not_sent(api_url: str) -> None:
    with pytest.raises(InvalidInput, match="letters that no token has"):
        ask(Target(api_url, "pässword", "127.0.0.1", 1883, "sz"), "GET", "/forbidden", reason="a test")
