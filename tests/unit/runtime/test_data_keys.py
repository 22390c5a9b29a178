"""Data keys: made once an owner, wrapped, rotated under a kill at any moment, destroyed without a trace. Clause 7.2c."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from domain.errors import IntegrityViolation, Unavailable
from runtime.data_keys import DESTROYED, WRAPPED_BY, DataKeys, Owner
from runtime.keys import KeyGone, KeyMissing, KeyProvider, make_missing
from runtime.sealing import SEALING_KEYS, Place, patient_owner
from runtime.soft_keys import SoftKeys
from tests.sql_fixtures import make_sealer
from tests.waiting import until

WANG, LI = Owner("patient/wang", "hospital/h1/patients"), Owner("patient/li", "hospital/h1/patients")
NOTES = Owner("hospital/h1/alarms")


class Killed(BaseException):
    """As if the process had ended here."""


@pytest.fixture
def keys(tmp_path: Path) -> SoftKeys:
    made = SoftKeys(tmp_path)
    make_missing(made, SEALING_KEYS)
    return made


def opened(tmp_path: Path, keys: KeyProvider) -> DataKeys:
    """As another process opens it."""
    return DataKeys(tmp_path / "data_keys.db", keys)


@pytest.fixture
def data_keys(tmp_path: Path, keys: SoftKeys) -> DataKeys:
    made = opened(tmp_path, keys)
    made.create()
    return made


def test_an_owner_has_one_key_in_every_process(tmp_path: Path, keys: SoftKeys, data_keys: DataKeys) -> None:
    made = data_keys.of_owners([WANG, NOTES, WANG], are_new=True)
    assert len({key.secret for key in made.values()}) == 2
    assert opened(tmp_path, keys).of_owners([NOTES, WANG], are_new=True) == made
    assert opened(tmp_path, keys).of_kids([key.kid for key in made.values()]) == {key.kid: key.secret for key in made.values()}
    assert data_keys.of_kids([1]) == {}


def test_many_who_ask_at_once_get_the_same_key(tmp_path: Path, keys: SoftKeys, data_keys: DataKeys) -> None:
    together, found = threading.Barrier(8), []

    def ask(store: DataKeys) -> None:
        together.wait(30)
        found.append(store.of_owners([WANG], are_new=True)[WANG.name])

    stores = [data_keys, opened(tmp_path, keys)] * 4
    threads = [threading.Thread(target=ask, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1


def test_files_are_their_owners_alone_and_no_key_is_made_by_the_way(
    tmp_path: Path, keys: SoftKeys, data_keys: DataKeys
) -> None:
    secret = data_keys.of_owners([WANG], are_new=True)[WANG.name].secret
    files = list(tmp_path.glob("data_keys.db*"))
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert not any(secret in file.read_bytes() for file in files)
    with pytest.raises(KeyMissing, match="restore"):
        DataKeys(tmp_path / "elsewhere.db", keys).of_owners([WANG], are_new=True)
    assert not (tmp_path / "elsewhere.db").exists()


@pytest.mark.clause("9.3h")
def test_a_destroyed_key_leaves_no_trace_in_the_files_and_comes_back_for_nobody(
    tmp_path: Path, keys: SoftKeys, data_keys: DataKeys
) -> None:
    made = data_keys.of_owners([WANG, LI], are_new=True)
    other = opened(tmp_path, keys)
    other.of_owners([WANG], are_new=True)  # remembers it
    wrapped = wrapped_of(tmp_path, made[WANG.name].kid)
    assert data_keys.destroy([WANG.name]) == 1
    assert data_keys.destroy([WANG.name]) == 0
    assert not any(wrapped in file.read_bytes() for file in tmp_path.glob("data_keys.db*"))
    for store in (data_keys, other):
        assert store.of_kids([key.kid for key in made.values()]) == {
            made[WANG.name].kid: None, made[LI.name].kid: made[LI.name].secret,
        }  # fmt: skip
        assert (store.is_destroyed(WANG.name), store.is_destroyed(LI.name), store.is_destroyed("x")) == (True, False, False)
        with pytest.raises(KeyGone, match="patient/wang"):
            store.of_owners([LI, WANG], are_new=True)


def test_what_is_under_a_destroyed_key_is_destroyed(tmp_path: Path, keys: SoftKeys, data_keys: DataKeys) -> None:
    kid = data_keys.of_owners([WANG], are_new=True)[WANG.name].kid
    data_keys.destroy([str(WANG.under)])
    assert opened(tmp_path, keys).of_kids([kid]) == {kid: None}


class Dying(SoftKeys):
    """A provider whose process ends at a wrapping."""

    left = 0

    def wrap(self, name: str, content: bytes, bound_to: bytes) -> bytes:
        if not self.left:
            raise Killed
        self.left -= 1
        return super().wrap(name, content, bound_to)


@pytest.mark.clause("7.2c")
def test_a_rotation_that_is_killed_at_any_moment_opens_all_and_goes_on(
    tmp_path: Path, keys: SoftKeys, data_keys: DataKeys
) -> None:
    owners = [Owner(f"hospital/h{number}/alarms") for number in range(4)]
    made = data_keys.of_owners(owners, are_new=True)
    kids = {key.kid: key.secret for key in made.values()}
    version = 1
    for left in range(5):
        version = keys.rotate(WRAPPED_BY)
        dying = Dying(tmp_path)
        dying.left = left
        if left < 4:
            with pytest.raises(Killed):
                opened(tmp_path, dying).wrap_anew()
        assert opened(tmp_path, keys).of_kids(kids) == kids
        assert opened(tmp_path, keys).wrapped_under().get(version, 0) == min(left, 4) % 4
        assert opened(tmp_path, keys).wrap_anew() == (4 if left == 4 else 4 - left)
        assert opened(tmp_path, keys).wrap_anew() == 0
    assert opened(tmp_path, keys).wrapped_under() == {version: 4}
    for old in keys.versions(WRAPPED_BY)[:-1]:
        keys.destroy(WRAPPED_BY, old)  # none of them is needed
    assert opened(tmp_path, keys).of_kids(kids) == kids


_ROTATE_FOR_EVER = """
import sys
from pathlib import Path
from runtime.data_keys import DataKeys, WRAPPED_BY
from runtime.soft_keys import SoftKeys
keys = SoftKeys(Path(sys.argv[1]))
store = DataKeys(Path(sys.argv[1]) / "data_keys.db", keys)
print("ready", flush=True)
while True:
    keys.rotate(WRAPPED_BY)
    store.wrap_anew()
"""


@pytest.mark.clause("7.2c")
def test_a_rotating_process_that_is_killed_leaves_a_whole_store(tmp_path: Path, keys: SoftKeys, data_keys: DataKeys) -> None:
    made = data_keys.of_owners([Owner(f"hospital/h{number}/alarms") for number in range(20)], are_new=True)
    kids = {key.kid: key.secret for key in made.values()}
    data_keys.close()
    before = keys.versions(WRAPPED_BY)[-1]
    rotating = subprocess.Popen([sys.executable, "-c", _ROTATE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE)
    assert rotating.stdout is not None
    rotating.stdout.readline()
    asyncio.run(until(lambda: keys.versions(WRAPPED_BY)[-1] >= before + 3))  # it is in the midst of its work
    os.kill(rotating.pid, signal.SIGKILL)
    rotating.wait()
    rotating.stdout.close()
    assert opened(tmp_path, keys).of_kids(kids) == kids
    opened(tmp_path, keys).wrap_anew()
    assert opened(tmp_path, keys).wrapped_under() == {keys.versions(WRAPPED_BY)[-1]: 20}


def test_a_store_that_is_damaged_or_away_says_so(tmp_path: Path, keys: SoftKeys, data_keys: DataKeys) -> None:
    data_keys.of_owners([WANG], are_new=True)
    data_keys.close()
    file = tmp_path / "data_keys.db"
    file.write_bytes(b"no database at all" * 1_000)
    with pytest.raises(IntegrityViolation, match="damaged"):
        opened(tmp_path, keys).of_owners([LI], are_new=True)
    file.unlink()
    file.mkdir()
    with pytest.raises(Unavailable):
        opened(tmp_path, keys).of_owners([LI], are_new=True)


def wrapped_of(tmp_path: Path, kid: int) -> bytes:
    with sqlite3.connect(tmp_path / "data_keys.db") as connection:
        wrapped: bytes = connection.execute("SELECT wrapped FROM data_keys WHERE kid = ?", (kid,)).fetchone()[0]
    connection.close()
    return wrapped


def test_one_damaged_key_keeps_no_other_from_opening(
    tmp_path: Path, keys: SoftKeys, data_keys: DataKeys, caplog: pytest.LogCaptureFixture
) -> None:
    made = data_keys.of_owners([WANG, LI], are_new=True)
    with sqlite3.connect(tmp_path / "data_keys.db") as connection:
        connection.execute("UPDATE data_keys SET wrapped = x'00' WHERE owner = ?", (WANG.name,))
    connection.close()
    assert data_keys.of_kids([key.kid for key in made.values()]) == {made[LI.name].kid: made[LI.name].secret}
    assert "patient/wang" in caplog.text
    with pytest.raises(IntegrityViolation, match="patient/wang"):
        data_keys.of_owners([WANG], are_new=True)


def test_what_a_destroyed_version_of_fields_wraps_is_destroyed(tmp_path: Path, keys: SoftKeys, data_keys: DataKeys) -> None:
    made = data_keys.of_owners([WANG, NOTES], are_new=True)
    keys.rotate(WRAPPED_BY)
    keys.destroy(WRAPPED_BY, 1)
    assert opened(tmp_path, keys).of_kids(key.kid for key in made.values()) == dict.fromkeys(key.kid for key in made.values())


@pytest.mark.clause("9.3h")
def test_a_restored_folder_of_keys_is_told_by_the_list_to_destroy_them_again(tmp_path: Path) -> None:
    sealer = make_sealer(tmp_path)
    owner = patient_owner("sz.h001", "a" * 32)
    text = sealer.seal_many([(owner, Place("t", "c", "r"), "Ouyang Canary")], are_new=True)[0]
    sealer.data_keys.close()
    older = (tmp_path / "data_keys.db").read_bytes()
    sealer.data_keys.destroy([owner.name])
    sealer.data_keys.close()
    for path in tmp_path.glob("data_keys.db*"):
        path.unlink()
    (tmp_path / "data_keys.db").write_bytes(older)
    assert sealer.open(Place("t", "c", "r"), text) == "Ouyang Canary"
    with (tmp_path / DESTROYED).open("ab") as file:
        file.write(b"patient/torn")  # a crash in the middle of a line
    assert sealer.data_keys.destroy_listed() == 1
    assert sealer.data_keys.destroy_listed() == 0
    assert sealer.data_keys.is_destroyed(owner.name)
    sealer.data_keys.close()
