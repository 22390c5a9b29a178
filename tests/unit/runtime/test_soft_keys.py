"""Keys in files: nobody else reads them, and what is not the key that was asked for is never used."""

from __future__ import annotations

import json

import pytest

from domain.errors import IntegrityViolation
from runtime.durable import create_secret, write_secret
from runtime.keys import KEYS, make_missing
from runtime.soft_keys import SoftKeys


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "secrets" / "keys"


@pytest.fixture
def keys(folder):
    provider = SoftKeys(folder)
    make_missing(provider)
    return provider


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.clause("9.3f")
def test_only_the_owner_can_reach_a_key(folder, keys):
    keys.rotate("pepper")
    keys.destroy("pepper", 1)
    assert {path.stat().st_mode & 0o777 for path in files(folder)} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())} == {0o700}
    assert sorted(str(path.relative_to(folder)) for path in files(folder)) == sorted(
        [*(f"{name}/1.key" for name in KEYS), "pepper/2.key"]
    )


def test_a_key_that_others_can_read_is_refused(folder, keys):
    (folder / "pepper" / "1.key").chmod(0o640)
    with pytest.raises(IntegrityViolation, match="has mode 0640"):
        keys.mac("pepper", b"")


def test_one_flipped_bit_of_a_key_is_noticed(folder, keys):
    path = folder / "pepper" / "1.key"
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(IntegrityViolation, match="damaged"):
            keys.mac("pepper", b"")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"null"])
def test_what_is_no_key_is_refused(folder, keys, content):
    (folder / "pepper" / "1.key").write_bytes(content)
    with pytest.raises(IntegrityViolation, match="damaged"):
        keys.mac("pepper", b"")


def test_a_key_copied_over_another_is_not_used_for_it(folder, keys):
    keys.rotate("pepper")
    (folder / "pepper" / "2.key").write_bytes((folder / "pepper" / "1.key").read_bytes())
    with pytest.raises(IntegrityViolation, match="is not version 2 of key pepper"):
        keys.mac("pepper", b"")
    (folder / "log-ed25519" / "1.key").write_bytes((folder / "log-sm2" / "1.key").read_bytes())
    with pytest.raises(IntegrityViolation):
        keys.sign("log-ed25519", b"")


def test_a_destroyed_key_leaves_nothing_of_itself(folder, keys):
    path = folder / "totp" / "1.key"
    secret = json.loads(path.read_bytes())["secret"]
    keys.destroy("totp", 1)
    assert secret not in path.read_text()
    assert json.loads(path.read_bytes())["secret"] is None


def test_what_a_dead_process_left_half_written_is_no_key(folder, keys):
    (folder / "pepper" / ".2.key.x7_dead").write_bytes(b"half")
    assert keys.versions("pepper") == (1,)
    assert keys.rotate("pepper") == 2


def test_a_secret_is_replaced_as_a_whole_and_created_once(tmp_path):
    path = tmp_path / "new" / "secret"
    create_secret(path, b"first")
    with pytest.raises(FileExistsError):
        create_secret(path, b"second")
    assert path.read_bytes() == b"first"
    path.chmod(0o644)
    write_secret(path, b"third")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"third", 0o600)
    assert list(path.parent.iterdir()) == [path]
