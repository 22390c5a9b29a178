"""Keys in files: nobody else reads them, and what is not the key that was asked for is never used."""

from __future__ import annotations

import json
import os

import msgspec
import pytest

from domain.errors import IntegrityViolation
from runtime import soft_keys
from runtime.durable import create_secret, write_secret
from runtime.keys import KEYS, KeyVersion, finish_destroying, make_missing
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


def test_the_content_of_a_destroyed_key_is_overwritten_where_it_lay(folder, keys):
    path = folder / "totp" / "1.key"
    (folder / "totp" / ".1.key.x7_dead").hardlink_to(path)  # of a process killed while it made it
    with path.open("rb") as held:
        secret = held.read()
        keys.destroy("totp", 1)
        held.seek(0)
        assert held.read() == bytes(len(secret))
    assert [file.name for file in path.parent.iterdir()] == ["1.key"]


class Killed(BaseException):
    pass


def die(event: str, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the `calls`-th call of `os.<event>` on nothing is done any more."""
    real, left = getattr(os, event), iter(range(calls))

    def called(*arguments, **named):
        if next(left, None) is None:
            raise Killed
        return real(*arguments, **named)

    monkeypatch.setattr(os, event, called)


@pytest.mark.parametrize(("event", "calls"), [(event, n) for event, most in
                         {"link": 1, "fsync": 4, "replace": 1, "unlink": 1}.items() for n in range(most)])  # fmt: skip
def test_whoever_is_killed_while_destroying_leaves_a_version_that_is_whole_or_destroyed(
    folder, keys, monkeypatch, event, calls
):  # fmt: skip
    path = folder / "totp" / "1.key"
    wrapped = keys.wrap("totp", b"seed", b"")
    keys.rotate("totp")
    with monkeypatch.context() as patch:
        die(event, calls, patch)
        with pytest.raises(Killed):
            keys.destroy("totp", 1)
    if keys.versions("totp") == (1, 2):
        assert keys.unwrap("totp", wrapped, b"") == b"seed"
        keys.destroy("totp", 1)
    finish_destroying(keys, "totp")
    assert keys.versions("totp") == (2,)
    assert sorted(file.name for file in path.parent.iterdir()) == ["1.key", "2.key"]


def test_a_key_of_before_its_time_was_noted_is_read_and_destroyed(folder, keys):
    path = folder / "totp" / "1.key"
    before = json.loads(path.read_bytes())
    del before["made_us"]
    old = msgspec.json.decode(json.dumps(before), type=soft_keys._Key).checked()
    path.write_bytes(msgspec.json.encode(old))
    assert keys.history("totp") == (KeyVersion(1, None),)
    assert keys.unwrap("totp", keys.wrap("totp", b"seed", b""), b"") == b"seed"
    keys.destroy("totp", 1)
    assert keys.history("totp")[0].is_destroyed


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
