"""Log and witness, in processes of their own: cosigned checkpoints, a witness that is away, and a log that goes back."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.connection import Connection
from domain import subjects
from domain.errors import InvalidInput
from domain.messages import LogState
from domain.signed_notes import ED25519, Note, PublicKey
from runtime.bus import Bus
from runtime.certificates import Authority, Wanted
from runtime.log_store import LogReader
from runtime.log_verifier import DoesNotHold, Source, verify_log
from runtime.witness import Evidence
from tests.integration.test_audit_process import ORIGIN, Log
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.clause("9.3e"), pytest.mark.clause("6.1b")]


class Processes:
    """The log's process and its witness, as the platform starts them."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.settings: dict[str, str] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str) -> None:
        for name in names:
            self.run(name, [sys.executable, "-m", f"cluster.{name}_process"])

    def run(self, name: str, command: list[str]) -> None:
        settings = {f"VITALGRID_{key}": value for key, value in self.settings.items()}
        environment = {**os.environ, "VITALGRID_DATA_DIR": str(self._data_dir), **settings}
        with (self._data_dir / f"{name}.out").open("ab") as out:
            self._running[name] = subprocess.Popen(command, env=environment, stdout=out, stderr=out)

    async def end(self, name: str, with_signal: int = signal.SIGTERM) -> int:
        process = self._running.pop(name)
        process.send_signal(with_signal)
        return await asyncio.to_thread(process.wait, 20)

    async def end_all(self) -> None:
        for name in list(self._running):
            await self.end(name)

    def said(self, name: str) -> str:
        return (self._data_dir / f"{name}.out").read_text()


@pytest.fixture
async def log(tmp_path: Path, bus: Bus, nats_url: tuple[str, str]) -> Log:
    Connection(pid=os.getpid(), nats_url=nats_url[0], nats_token=nats_url[1]).save(tmp_path)
    return Log(tmp_path, bus)


@pytest.fixture
async def processes(log: Log):
    made = Processes(log.data_dir)
    yield made
    await made.end_all()


@pytest.fixture
async def told(bus: Bus) -> list[LogState]:
    states: list[LogState] = []
    await bus.core_subscribe(subjects.LOG_STATE, lambda payload, _: states.append(msgspec.json.decode(payload, type=LogState)))
    return states


def cosigned(log: Log, by: str = f"{ORIGIN}/witness") -> bool:
    note = LogReader(log.folder).note()
    return note is not None and any(one.name == by for one in Note.parse(note).signatures)


def verified(log: Log) -> int:
    """The log verified, with its witness; its size."""
    vkeys = [key.vkey for key in log.signer.public_keys()]
    witness = (log.data_dir / "witness" / "vkey").read_text().strip()
    report = verify_log(Source(str(log.folder)), vkeys, None, [witness])
    assert report.witnessed_s is not None
    return report.size


def kept(log: Log, name: str) -> Path:
    """A copy as a backup has it."""
    return Path(shutil.copytree(log.folder, log.data_dir / name))


def restore(log: Log, copy: Path) -> None:
    shutil.rmtree(log.folder)
    shutil.copytree(copy, log.folder)


async def test_checkpoints_carry_the_witness_and_a_log_rolled_back_to_yesterday_stops_and_says_so(
    log: Log, processes: Processes, told: list[LogState]
) -> None:
    await log.tell(1, 2, 3)
    processes.start("audit", "witness")
    await until(lambda: len(log.ids()) == 3 and cosigned(log))
    assert verified(log) == 3
    await until(lambda: told and told[-1].cosigned == 3)
    assert (told[-1].problem, told[-1].unwitnessed) == (None, None)
    await processes.end("audit")
    yesterday = kept(log, "yesterday")
    processes.start("audit")
    await log.tell(4, 5)
    await until(lambda: len(log.ids()) == 5 and cosigned(log))
    await processes.end("audit")
    today = kept(log, "today")

    restore(log, yesterday)
    processes.start("audit")
    told.clear()
    await log.tell(6)
    await until(lambda: told and told[-1].problem is not None)
    assert "rolled-back: the log has 3 entries, and the platform's own witness has its signature for 5" in told[-1].problem
    assert log.ids() == ["t-1", "t-2", "t-3"], "it does not grow into another past"
    assert "rolled-back" in processes.said("audit")

    await processes.end("audit")
    restore(log, today)
    processes.start("audit")
    await until(lambda: len(log.ids()) == 6 and cosigned(log))
    assert verified(log) == 6


async def test_a_witness_that_is_away_holds_nothing_up_and_catches_up(
    log: Log, processes: Processes, told: list[LogState]
) -> None:
    processes.start("audit")
    await log.tell(1, 2)
    await until(lambda: len(log.ids()) == 2)
    await until(lambda: told and told[-1].size == 2 and told[-1].unwitnessed is not None)
    assert (told[-1].problem, told[-1].cosigned) == (None, 0)
    assert "the platform's own witness: it does not answer" in str(told[-1].unwitnessed)
    processes.start("witness")
    await until(lambda: cosigned(log))
    await until(lambda: told[-1].cosigned == 2 and told[-1].unwitnessed is None)
    await processes.end("witness", signal.SIGKILL)
    await log.tell(3)
    await until(lambda: len(log.ids()) == 3)
    assert not cosigned(log)
    with pytest.raises(DoesNotHold, match=r"not signed by the witness"):
        verified(log)
    processes.start("witness")
    await until(lambda: cosigned(log))
    assert verified(log) == 3


async def test_a_log_that_was_rewritten_stops_and_the_witness_keeps_both_checkpoints(
    log: Log, processes: Processes, told: list[LogState]
) -> None:
    """Whoever has the keys and the disk writes another past of the same length, and longer."""
    await log.tell(1, 2, 3)
    processes.start("audit", "witness")
    await until(lambda: len(log.ids()) == 3 and cosigned(log))
    await processes.end("audit")
    shutil.rmtree(log.folder)  # and what the stream still has comes in anew, with other salts
    processes.start("audit")
    await log.tell(4, 5)
    await until(lambda: told and "rolled-back" in str(told[-1].problem), 20)
    assert log.ids() == [], "it stops before anything contradicts what it signed"

    await processes.end("witness")
    await processes.end("audit")
    processes.start("audit")  # while the witness is away: nobody can tell
    await until(lambda: len(log.ids()) == 5)
    processes.start("witness")
    await until(lambda: told and "the first 3 entries of the log are not those it signed" in str(told[-1].problem), 20)
    (evidence,) = (log.data_dir / "witness" / "evidence").glob("*.json")
    found = msgspec.json.decode(evidence.read_bytes(), type=Evidence)
    assert [log.signer.verify(note.encode()).size for note in (found.kept, found.given)] == [3, 5]
    await log.tell(6)
    assert len(log.ids()) == 5


@pytest.mark.clause("9.1a")
async def test_a_witness_on_another_machine_signs_over_tls(log: Log, processes: Processes, tmp_path: Path) -> None:
    """The command as a hospital runs it, and a region whose settings name it."""
    now = datetime.now(UTC)
    authority = Authority(tmp_path / "pki")
    authority.make_missing("h001", now)
    authority.keep(Wanted("witness", frozenset({"127.0.0.1"}), is_server=True), now)
    log.signer.make_keys()
    port, folder, file = free_port(), tmp_path / "hospital", str(authority.file_of("witness"))
    vkeys = [part for key in log.signer.public_keys() for part in ("--log-vkey", key.vkey)]
    command = [sys.executable, "-m", "cluster.cli", "witness", "--name", "sz.h001/witness", "--data-dir", str(folder),
               "--listen", f"127.0.0.1:{port}", "--tls-cert-file", file, "--tls-key-file", file, *vkeys]  # fmt: skip
    processes.run("hospital", command)
    await until((folder / "vkey").exists, 20)
    vkey = (folder / "vkey").read_text().strip()
    witness = {"url": f"https://127.0.0.1:{port}", "vkey": vkey, "ca_file": str(authority.file)}
    processes.settings = {"AUDIT__OWN_WITNESS": "false", "AUDIT__WITNESSES": json.dumps([witness])}
    processes.start("audit")
    await log.tell(1, 2)
    await until(lambda: len(log.ids()) == 2 and cosigned(log, "sz.h001/witness"), 20)
    report = verify_log(Source(str(log.folder)), [key.vkey for key in log.signer.public_keys()], None, [vkey])
    assert (report.size, report.others) == (2, 1)
    assert await processes.end("hospital") == 0
    assert f"witnessing at https://127.0.0.1:{port}" in processes.said("hospital")


@pytest.mark.parametrize("arguments", [
    ["--listen", "0.0.0.0:8090"], ["--listen", "nowhere"], ["--tls-cert-file", "only.pem"], ["--log-vkey", "no key"],
])  # fmt: skip
def test_a_witness_is_not_started_as_it_should_not_be(arguments: list[str], tmp_path: Path) -> None:
    vkey = PublicKey("a/log", ED25519, bytes(32)).vkey
    command = ["witness", "--name", "w", "--log-vkey", vkey, "--data-dir", str(tmp_path / "w"), *arguments]
    assert isinstance(CliRunner().invoke(app, command).exception, InvalidInput)
    assert not (tmp_path / "w").exists()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
