"""Orders about keys, killed at each write: the platform works beside what is left, and the next start ends it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, event

from cluster.key_kinds import KINDS
from cluster.key_orders import destroy_key, rotate_key, uses_of
from runtime.clock import ManualClock, SystemClock
from runtime.soft_keys import SoftKeys
from tests.keys_house import LATER_S, House, check_opens, house, made

__all__ = ["house", "made"]  # fixtures

pytestmark = pytest.mark.clause("7.2c")


def kill_at(calls: int) -> None:
    """This process ends by kill -9 at the `calls`-th thing that it is about to do to a file or a database."""
    left = iter(range(calls))

    def about_to(*_: object) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    def heard(name: str, arguments: tuple[object, ...]) -> None:
        if name in ("os.link", "os.rename", "os.remove") or (name == "open" and arguments[1] in ("wb", "r+b")):
            about_to()

    sys.addaudithook(heard)
    event.listen(Engine, "before_cursor_execute", lambda _c, _k, statement, *_: about_to() if wrote(statement) else None)
    event.listen(Engine, "commit", about_to)
    wrap = SoftKeys.wrap

    def wrapped(*arguments: object, **named: object) -> bytes:
        about_to()
        return wrap(*arguments, **named)

    SoftKeys.wrap = wrapped


def wrote(statement: str) -> bool:
    return statement.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE", "COMMIT"))


def killed_at(calls: int, order: Callable[[], object]) -> bool:
    """Carry out `order` in a process that is killed at that call; False when it came to its end before."""
    child = os.fork()
    if child == 0:
        kill_at(calls)
        order()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        assert os.WEXITSTATUS(status) == 0
        return False
    assert os.WTERMSIG(status) == signal.SIGKILL
    return True


@pytest.mark.parametrize("name", ["fields", "blind", "totp", "pepper", "lake", "log-ed25519"])
def test_killed_at_any_write_of_a_rotation_the_next_start_goes_on(made, tmp_path, name):
    for calls in range(200):
        folder = tmp_path / f"{calls}"
        shutil.copytree(made.settings.data_dir, folder)
        house = House(made.settings.model_copy(update={"data_dir": folder}), made.clock, made.patient_key, made.user_id)
        was_killed = killed_at(calls, lambda house=house: house.do(rotate_key, name))
        check_opens(house)  # beside a platform that runs, nothing is started
        house.start()
        check_opens(house)
        version = house.keys.versions(name)[-1]
        assert version in (1, 2)
        assert version == 1 or ("key.rotate", f"key {name}", {"version": 2}) in [said[1:] for said in house.writes()]
        left = {what: dict(under) for what, under in house.do(uses_of, name).items()}
        if KINDS[name].reseal is not None:
            assert [*left.values()] == [{version: {"fields": 2, "blind": 1, "totp": 1}[name]}]
        if not was_killed:
            assert calls > 3
            assert version == 2
            return
        shutil.rmtree(folder)
    pytest.fail("it never came to its end")


@pytest.mark.parametrize("name", ["fields", "backup-sm2"])
def test_killed_at_any_write_of_a_destruction_the_next_start_leaves_nothing_half_done(made, tmp_path, name):
    for calls in range(100):
        folder = tmp_path / f"{calls}"
        shutil.copytree(made.settings.data_dir, folder)
        house = House(made.settings.model_copy(update={"data_dir": folder}), ManualClock(SystemClock().now_us()),
                      made.patient_key, made.user_id)  # fmt: skip
        house.do(rotate_key, name)
        house.clock.advance(LATER_S)
        was_killed = killed_at(calls, lambda house=house: house.do(destroy_key, name, 1))
        house.start()
        check_opens(house)
        if house.keys.versions(name) != (1, 2):  # else all that is left is a second name of what is there
            names = sorted(path.name for path in (house.settings.keys_dir / name).iterdir())
            assert (house.keys.versions(name), names) == ((2,), ["1.key", "2.key"])
        house.do(destroy_key, name, 1)
        assert house.keys.versions(name) == (2,)
        assert sorted(path.name for path in (house.settings.keys_dir / name).iterdir()) == ["1.key", "2.key"]
        if not was_killed:
            assert calls > 3
            return
        shutil.rmtree(folder)
    pytest.fail("it never came to its end")
