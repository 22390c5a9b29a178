"""What hosts write of a person leaves the lake as they are erased, on both databases. Clause 9.3h."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from domain.erasures import State, Step
from domain.errors import Unavailable
from domain.instants import DAY_US, to_rfc3339
from runtime import erasure_job
from runtime.lake import Advance, ReadingQuery
from runtime.lake_rewriting import drop_handle
from runtime.lake_upkeep import expire
from tests.erasing import HOSTS_WRITE_S, LAKE_DAYS, Rig, ask, plant, rows_of_one

pytestmark = pytest.mark.clause("9.3h")


def test_what_hosts_write_late_of_a_person_leaves_the_lake_too(engine: Engine, rig: Rig, key: str) -> None:
    handle = plant(engine, rig, key)
    ask(engine, key)
    row = rig.job.once()
    assert row is not None
    assert row["step"] == Step.LOG
    rig.lake.commit(rows_of_one(handle), {1: Advance(2, 3, 1)})
    assert rig.run()["counts"]["lake"]["rows"] == 120
    assert handle not in rig.lake.read(ReadingQuery())["handle"].to_list()


def test_a_run_that_the_lake_does_not_let_through_is_counted_and_goes_on(
    engine: Engine, rig: Rig, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = plant(engine, rig, key)
    rig.lake.commit(rows_of_one(handle), {1: Advance(2, 3, 1)})
    ask(engine, key)

    def fails_behind_the_first(*arguments: Any) -> Iterator[int]:
        yield next(drop_handle(*arguments))
        raise Unavailable("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(erasure_job, "drop_handle", fails_behind_the_first)
        for _ in range(2):
            with pytest.raises(Unavailable):
                rig.job.once()
    assert rig.run()["counts"]["lake"] == {"rows": 120, "files": 2}


def test_hosts_are_waited_for_until_they_heard_and_wrote_what_they_had_in_hand(engine: Engine, rig: Rig, key: str) -> None:
    handle = plant(engine, rig, key)
    ask(engine, key)
    rig.job.once()
    rig.log()
    steps = []
    for hear in (lambda: None, rig.tell_hosts):  # neither while they have not heard, nor while they may be writing
        hear()
        row = rig.job.once()
        assert row is not None
        steps.append(row["step"])
    assert steps == [Step.SETTLE, Step.SETTLE]
    rig.lake.commit(rows_of_one(handle), {1: Advance(2, 3, 1)})
    rig.clock.advance(seconds=HOSTS_WRITE_S)
    row = rig.job.once()
    assert row is not None
    assert (row["state"], row["counts"]["lake"]["rows"]) == (State.ERASED, 120)


def test_what_a_host_writes_behind_the_certificate_is_gone_when_that_says(engine: Engine, rig: Rig, key: str) -> None:
    handle = plant(engine, rig, key)
    ask(engine, key)
    gone_us = int(rig.run()["ended_us"]) + (LAKE_DAYS + 1) * DAY_US
    said = f"ages out: lake, what hosts that were behind write there after this, until {to_rfc3339(gone_us)}\n"
    assert said in rig.verify(rig.bundle(key))
    rig.lake.commit(rows_of_one(handle), {1: Advance(2, 3, 1)})
    assert expire(rig.lake, LAKE_DAYS, gone_us) == 120
    assert rig.lake.read(ReadingQuery()).is_empty()
