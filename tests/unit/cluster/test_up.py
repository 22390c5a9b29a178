"""`vitalgrid up` stops what it started, also when nobody can be told."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from cluster import up
from cluster.connection import Connection, admin_token_file, first_password_file
from cluster.first_start import FirstCredentials
from runtime.settings import Settings


class StartedPlatform:
    """Stands for a platform whose processes are not wanted here."""

    stops = 0

    def __init__(self, settings, say):
        self.first = FirstCredentials()

    async def start(self):
        return Connection(pid=1, nats_url="", nats_token="")

    async def stop(self):
        type(self).stops += 1


class ClosedTerminal:
    """A terminal that goes away once the platform is ready."""

    def write(self, text):
        if "ready" in text:
            raise ValueError("I/O operation on closed file")

    def flush(self):
        pass


async def test_a_platform_is_stopped_when_its_introduction_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(up, "Platform", StartedPlatform)
    with pytest.raises(ValueError, match="closed file"):
        await asyncio.wait_for(up.run_platform(Settings(data_dir=tmp_path), Console(file=ClosedTerminal())), 10)
    assert StartedPlatform.stops == 1


@pytest.mark.clause("9.3b")
@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_first_password_and_the_token_are_shown_at_a_terminal_alone(tmp_path, is_terminal):
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=200)
    settings = Settings(data_dir=tmp_path)
    up._tell_first(FirstCredentials(token="the-token", password="the-password"), settings, console)
    said = console.file.getvalue()
    assert ("the-token" in said, "the-password" in said) == (is_terminal, is_terminal)
    assert str(first_password_file(tmp_path)) in said
    assert str(admin_token_file(tmp_path)) in said


def test_what_libraries_write_goes_to_a_log_and_words_for_people_stay(tmp_path):
    program = f"""
import os, pathlib, sys
from cluster.cli import _console, _keep_apart
_keep_apart(pathlib.Path({str(tmp_path / "ray.log")!r}))
_keep_apart(pathlib.Path({str(tmp_path / "ray.log")!r}))
os.write(2, b"of Ray")
_console.print("for people")
raise SystemExit("and why it ended")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], env=os.environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stderr.splitlines() == ["for people", "and why it ended"]
    assert (tmp_path / "ray.log").read_text() == "of Ray"
