"""What every KeyProvider promises."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.errors import Conflict, IntegrityViolation
from runtime import sm2
from runtime.keys import KEYS, KeyGone, KeyKind, KeyMissing, KeyProvider, KeyVersion, make_missing, newest
from runtime.soft_keys import SoftKeys

pytestmark = pytest.mark.clause("7.2c")

PROVIDERS: dict[str, Callable[[Path], KeyProvider]] = {"soft": SoftKeys}
MAC, WRAP = "pepper", "totp"
SIGNING = [name for name, kind in KEYS.items() if kind in (KeyKind.ED25519, KeyKind.SM2)]


@pytest.fixture(params=PROVIDERS)
def opened(request, tmp_path):
    """Opens the provider: each call as another process would."""
    return lambda: PROVIDERS[request.param](tmp_path / "keys")


@pytest.fixture
def keys(opened):
    provider = opened()
    make_missing(provider)
    return provider


def is_signed(name: str, public: bytes, message: bytes, signature: bytes) -> bool:
    if KEYS[name] is KeyKind.SM2:
        return sm2.is_signed(public, message, signature)
    Ed25519PublicKey.from_public_bytes(public).verify(signature, message)  # raises
    return True


def test_missing_keys_are_made_once(opened, keys):
    assert make_missing(opened()) == []
    assert {keys.versions(name) for name in KEYS} == {(1,)}


def test_a_key_that_is_not_there_is_named_and_not_made_by_the_way(opened):
    for use in (lambda: opened().mac(MAC, b""), lambda: opened().sign(SIGNING[0], b""), lambda: opened().wrap(WRAP, b"", b"")):
        with pytest.raises(KeyMissing, match="version 1 of key"):
            use()
    assert [opened().versions(name) for name in KEYS] == [()] * len(KEYS)


def test_a_code_is_the_same_in_every_process_and_another_for_another_message_or_version(opened, keys):
    first = keys.mac(MAC, b"message")
    assert len(first) == 32
    assert opened().mac(MAC, b"message") == first != keys.mac(MAC, b"massage")
    assert keys.rotate(MAC) == 2
    assert opened().mac(MAC, b"message") not in (first, keys.mac(MAC, b"massage"))
    assert opened().mac(MAC, b"message", version=1) == first


def test_what_was_wrapped_before_a_rotation_opens_after_it(opened, keys):
    before = keys.wrap(WRAP, b"seed", b"user 7")
    keys.rotate(WRAP)
    after = keys.wrap(WRAP, b"seed", b"user 7")
    assert before != after
    assert [opened().unwrap(WRAP, wrapped, b"user 7") for wrapped in (before, after)] == [b"seed", b"seed"]


def test_two_wraps_of_one_content_differ(keys):
    assert keys.wrap(WRAP, b"seed", b"") != keys.wrap(WRAP, b"seed", b"")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=64), bound_to=st.binary(max_size=64), data=st.data())
def test_wrapped_content_that_was_changed_cut_or_moved_does_not_open(keys, content, bound_to, data):
    wrapped = keys.wrap(WRAP, content, bound_to)
    assert keys.unwrap(WRAP, wrapped, bound_to) == content
    bit = data.draw(st.integers(0, 8 * len(wrapped) - 1))
    changed = bytearray(wrapped)
    changed[bit // 8] ^= 1 << bit % 8
    cut = wrapped[: data.draw(st.integers(0, len(wrapped) - 1))]
    for other, place in ((bytes(changed), bound_to), (cut, bound_to), (wrapped, bound_to + b"x")):
        with pytest.raises(IntegrityViolation):
            keys.unwrap(WRAP, other, place)


@pytest.mark.parametrize("name", SIGNING)
def test_a_signature_holds_by_the_public_key_of_its_version(opened, keys, name):
    signature, old = keys.sign(name, b"checkpoint"), keys.public_key(name)
    keys.rotate(name)
    assert opened().public_key(name, version=1) == old != opened().public_key(name)
    assert is_signed(name, old, b"checkpoint", signature)
    assert is_signed(name, keys.public_key(name), b"checkpoint", opened().sign(name, b"checkpoint"))


def test_a_destroyed_version_opens_nothing_anywhere_and_its_number_is_not_used_again(opened, keys):
    other = opened()
    wrapped = keys.wrap(WRAP, b"seed", b"")
    keys.destroy(WRAP, 1)
    for use in (lambda: other.unwrap(WRAP, wrapped, b""), lambda: other.wrap(WRAP, b"", b"")):
        with pytest.raises(KeyGone, match="version 1 of key totp was destroyed"):
            use()
    assert other.versions(WRAP) == ()
    assert other.rotate(WRAP) == 2
    assert other.versions(WRAP) == (2,)
    with pytest.raises(KeyGone):
        keys.unwrap(WRAP, wrapped, b"")


def test_every_version_there_was_is_told_with_its_times(opened, keys):
    keys.rotate(MAC)
    keys.destroy(MAC, 1)
    keys.destroy(MAC, 1)
    first, second = opened().history(MAC)
    assert (first.number, first.is_destroyed, second.number, second.is_destroyed) == (1, True, 2, False)
    assert first.made_us <= second.made_us <= first.destroyed_us
    assert second.destroyed_us is None
    assert opened().history("fields") == (KeyVersion(1, opened().history("fields")[0].made_us),)


def test_what_is_wrapped_says_under_which_version(keys):
    before = keys.wrap(WRAP, b"seed", b"")
    keys.rotate(WRAP)
    assert [keys.version_of(wrapped) for wrapped in (before, keys.wrap(WRAP, b"seed", b""))] == [1, 2]


@pytest.mark.parametrize("name", SIGNING)
def test_what_a_destroyed_version_signed_can_be_checked_and_it_signs_no_more(opened, keys, name):
    signature, public = keys.sign(name, b"checkpoint"), keys.public_key(name)
    keys.rotate(name)
    assert is_signed(name, public, b"again", opened().sign(name, b"again", version=1))
    keys.destroy(name, 1)
    assert opened().public_key(name, version=1) == public
    assert is_signed(name, public, b"checkpoint", signature)
    with pytest.raises(KeyGone):
        opened().sign(name, b"checkpoint", version=1)
    assert newest(keys, name) == 2
    keys.destroy(name, 2)
    for use in (lambda: keys.public_key(name), lambda: keys.sign(name, b"")):
        with pytest.raises(KeyGone):
            use()
    assert newest(keys, name) == 2


def test_an_older_version_does_not_stand_in_for_the_newest_when_that_is_destroyed(keys):
    keys.rotate(MAC)
    keys.destroy(MAC, 2)
    with pytest.raises(KeyGone):
        keys.mac(MAC, b"message")
    assert len(keys.mac(MAC, b"message", version=1)) == 32


def test_a_key_is_used_for_its_own_kind_only(keys):
    for use in (lambda: keys.mac(WRAP, b""), lambda: keys.wrap(MAC, b"", b""), lambda: keys.sign(MAC, b""),
                lambda: keys.public_key(WRAP)):  # fmt: skip
        with pytest.raises(ValueError, match="is of kind"):
            use()


def test_of_many_that_rotate_at_once_none_loses_a_key(opened, keys):
    start = threading.Barrier(8)
    made: list[int] = []

    def rotate() -> None:
        start.wait()
        for _ in range(5):
            try:
                made.append(opened().rotate(MAC))
            except Conflict:
                continue

    threads = [threading.Thread(target=rotate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == list(range(2, len(made) + 2))
    assert keys.versions(MAC) == tuple(range(1, len(made) + 2))
