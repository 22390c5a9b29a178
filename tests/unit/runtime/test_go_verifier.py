"""Somebody else's verifier over our log: the code with which every `go get` verifies Go's checksum database."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from domain.signed_notes import ED25519
from runtime.clock import ManualClock
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LogSigner
from runtime.log_store import LogReader
from runtime.soft_keys import SoftKeys
from runtime.witness import Witness
from tests.source_tree import ROOT
from tests.unit.runtime.test_log_keeper import ORIGIN, received
from tests.unit.runtime.test_log_verifier import flip, needed
from tests.witnesses import witnessed_by

GOPATH = Path("/usr/share/gocode")  # where Debian's golang-golang-x-mod-dev has its sources
pytestmark = [
    pytest.mark.clause("6.1b"), pytest.mark.clause("9.3e"),
    pytest.mark.skipif(
        shutil.which("go") is None or not (GOPATH / "src/golang.org/x/mod/sumdb/tlog").is_dir(),
        reason="there is no Go with golang.org/x/mod: make test installs Debian's",
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("go")
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GOPATH), "GOCACHE": str(folder / "cache"), "GOFLAGS": ""}
    command = ["go", "build", "-o", str(folder / "verify"), "./tests/go/verify"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=120)
    return folder / "verify"


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log with full and partial tiles, signed by a witness too; the key that Go knows; an earlier checkpoint."""
    folder = tmp_path_factory.mktemp("log")
    signer = LogSigner(SoftKeys(folder / "keys"), ORIGIN)
    witness = Witness.open(folder / "witness", SoftKeys(folder / "witness-keys"), f"{ORIGIN}/witness",
                           lambda _: signer.public_keys(), ManualClock())  # fmt: skip
    witnesses = witnessed_by(signer, witness)
    keeper = LogKeeper.open(folder / "audit", signer, lambda: os.urandom(32), witnesses=witnesses)
    keeper.take(received(*range(1, 201)))
    (folder / "earlier").write_bytes(LogReader(folder / "audit").note())
    keeper.take(received(*range(201, 304)))
    for one in (keeper, witness):
        one.close()
    vkey = next(key.vkey for key in signer.public_keys() if key.kind == ED25519)
    return folder / "audit", vkey, folder / "earlier"


def holds(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout.startswith("holds: 303 entries" if done.returncode == 0 else "DOES NOT HOLD")
    return done.returncode == 0


def test_gos_own_verifier_accepts_our_log(program, log):
    folder, vkey, earlier = log
    assert len(LogReader(folder).note().split(b"\n\n")[1].strip().split(b"\n")) == 3, "SM2 and a witness signed too"
    assert holds(program, folder, vkey)
    assert holds(program, folder, vkey, earlier)


def test_gos_own_verifier_refuses_a_tampered_log(program, log, tmp_path):
    folder = Path(shutil.copytree(log[0], tmp_path / "audit"))
    for file in needed(folder):
        content = flip(file, 20, 0)
        assert not holds(program, folder, log[1]), file
        file.write_bytes(content)
    assert holds(program, folder, log[1])


def test_gos_own_verifier_refuses_another_past(program, log, tmp_path):
    folder, vkey, earlier = log
    signer = LogSigner(SoftKeys(folder.parent / "keys"), ORIGIN)
    keeper = LogKeeper.open(tmp_path / "audit", signer, lambda: os.urandom(32))
    keeper.take(received(*range(1, 304)))
    keeper.close()
    assert holds(program, tmp_path / "audit", vkey)
    assert not holds(program, tmp_path / "audit", vkey, earlier)
