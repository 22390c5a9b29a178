"""Hand-overs of hospitals step by step, in the business database."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, select

from domain.errors import Conflict, InvalidInput, NotFound
from domain.messages import DevicesRegistered, HandOver, HandOverStep, decode_control
from runtime.sql import devices, hand_overs, placement, places
from runtime.sql.devices import NewDevice
from runtime.sql.directory import shard_directory
from runtime.sql.engine import reading
from runtime.sql.outbox import mark_published, unpublished
from runtime.sql.tables import outbox
from tests.sql_fixtures import ADA, HOSPITAL, NOW_US, SHARDS, SmallHospital

pytestmark = pytest.mark.usefixtures("hospital")


def begin(engine: Engine, to_shard: int = 2) -> dict[str, Any]:
    return placement.hand_over(engine, ADA, HOSPITAL, to_shard, shards=SHARDS)


def told_since(engine: Engine, outbox_id: int) -> list[tuple[str, Any]]:
    query = select(outbox.c.subject, outbox.c.payload).where(outbox.c.id > outbox_id).order_by(outbox.c.id)
    with reading(engine) as connection:
        return [(subject, decode_control(payload)) for subject, payload in connection.execute(query)]


def publish_all(engine: Engine) -> int:
    ids = [row["id"] for row in unpublished(engine, 10_000)]
    mark_published(engine, ids, NOW_US)
    return max(ids, default=0)


def test_it_goes_from_step_to_step_and_each_is_made_once(engine: Engine) -> None:
    before = publish_all(engine)
    number = begin(engine)["number"]
    assert told_since(engine, before) == [
        ("control.2", HandOver(HOSPITAL, number, HandOverStep.PREPARE, 0, 2)),
        ("control.0", HandOver(HOSPITAL, number, HandOverStep.CUT, 0, 2)),
    ]
    (row,) = hand_overs.unsettled(engine)
    assert not row["is_told"]
    assert places.get_hospital(engine, HOSPITAL)["shard"] == 0, "doors send to the old shard until the cut is in the stream"
    before = publish_all(engine)
    assert hand_overs.unsettled(engine)[0]["is_told"]
    for _ in range(2):
        hand_overs.switch(engine, number, cut_by=700, now_us=NOW_US + 1)
    assert places.get_hospital(engine, HOSPITAL)["shard"] == 2
    assert hand_overs.places(engine) == {HOSPITAL: 2}
    for _ in range(2):
        hand_overs.settle(engine, number, NOW_US + 2)
    assert told_since(engine, before) == [("control.0", HandOver(HOSPITAL, number, HandOverStep.SETTLE, 0, 2))]
    assert hand_overs.unsettled(engine) == []


def test_what_is_told_behind_the_switch_goes_to_the_new_shard(engine: Engine) -> None:
    number = begin(engine)["number"]
    devices.register_device(engine, ADA, HOSPITAL, NewDevice("mon-8", "monitor"))
    hand_overs.switch(engine, number, cut_by=700, now_us=NOW_US)
    before = publish_all(engine)
    devices.register_device(engine, ADA, HOSPITAL, NewDevice("mon-9", "monitor"))
    assert [subject for subject, message in told_since(engine, before)] == ["control.2"]


def test_a_hospital_goes_one_way_at_a_time(engine: Engine) -> None:
    begin(engine)
    with pytest.raises(Conflict, match="on its way to shard 2"):
        begin(engine, 3)


def test_what_cannot_be_is_refused(engine: Engine) -> None:
    with pytest.raises(Conflict, match="in shard 0 already"):
        begin(engine, 0)
    with pytest.raises(InvalidInput, match="expected 0 to 3"):
        begin(engine, 4)
    with pytest.raises(NotFound):
        placement.hand_over(engine, ADA, "sz.nobody", 1, shards=SHARDS)
    with pytest.raises(NotFound, match="never handed over"):
        hand_overs.newest(engine, HOSPITAL)


def test_it_may_come_back_later(engine: Engine) -> None:
    first = begin(engine)["number"]
    hand_overs.switch(engine, first, cut_by=700, now_us=NOW_US)
    hand_overs.settle(engine, first, NOW_US)
    back = begin(engine, 0)
    assert (back["from_shard"], back["to_shard"]) == (2, 0)
    assert back["number"] > first
    with reading(engine) as connection:
        assert hand_overs.shards_ever_of(connection, [HOSPITAL]) == {0, 2}


def test_the_directory_says_a_hospital_to_its_former_shard_as_long_as_the_stream_has_the_cut(
    engine: Engine, hospital: SmallHospital
) -> None:
    def handles(shard: int, since: int) -> set[int]:
        said = [message for message in shard_directory(engine, shard, since) if isinstance(message, DevicesRegistered)]
        return {handle for message in said for handle in message.handles}

    number = begin(engine)["number"]
    hand_overs.switch(engine, number, cut_by=700, now_us=NOW_US)
    monitor = hospital.monitor["handle"]
    assert monitor in handles(2, 0)
    assert monitor in handles(2, 701)
    assert monitor in handles(0, 700)
    assert monitor not in handles(0, 701)
