"""Whoever asks a witness has an answer or an error within the time that one may take."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from domain.errors import Unavailable
from runtime.witness_client import WitnessClient, listen_at

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"


@pytest.fixture
def serve(tmp_path):
    """Begin to answer each connection by `answer`, until the test is over."""
    is_over, running, listener = threading.Event(), [], listen_at(tmp_path / "socket")

    def started(answer):
        def run():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        answer(connection, is_over)

        running.append(threading.Thread(target=run))
        running[0].start()
        return WitnessClient(tmp_path / "socket")

    yield started
    is_over.set()
    listener.shutdown(socket.SHUT_RDWR)
    for one in running:
        one.join(10)
    listener.close()


def test_answers_come_one_after_the_other_on_one_connection(serve):
    def answer(connection, _):
        while connection.recv(4096):
            connection.sendall(HEAD + b"good")

    client = serve(answer)
    for _ in range(3):
        assert client.post("/add-checkpoint", b"x" * 10) == (200, b"good")
    client.close()


def test_one_that_ended_an_idle_connection_is_asked_on_another(serve):
    def answer(connection, _):
        connection.recv(4096)
        connection.sendall(HEAD + b"good")

    client = serve(answer)
    for _ in range(2):
        assert client.get("/some/checkpoint") == (200, b"good")
    client.close()


@pytest.mark.parametrize("begun", [b"", HEAD.replace(b"4", b"4000")])
def test_one_that_sends_a_byte_now_and_then_is_not_listened_to_for_ever(serve, monkeypatch, begun):
    monkeypatch.setattr("runtime.witness_client.TIMEOUT_S", 0.3)

    def drip(connection, is_over):
        connection.sendall(begun)
        until_s = time.monotonic() + 10
        while not is_over.wait(0.05) and time.monotonic() < until_s:
            connection.sendall(b"H")

    client = serve(drip)
    started_s = time.monotonic()
    with pytest.raises(Unavailable, match=r"it does not answer \(TimeoutError"):
        client.get("/some/checkpoint")
    assert time.monotonic() - started_s < 5
