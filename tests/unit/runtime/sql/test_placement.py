"""Hospitals with a shard of their own, in the business database."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from domain.errors import Conflict, NotFound
from domain.fleet_manifest import FleetManifest, HospitalManifest, Tier
from runtime.sql import devices, hand_overs, placement, places
from runtime.sql.access import list_writes
from runtime.sql.devices import NewDevice
from runtime.sql.fleets import register_fleet
from tests.sql_fixtures import ADA, HOSPITAL, NOW_US, SHARDS, add_hospital

NEIGHBOUR = "sz.h900"


@pytest.fixture(autouse=True)
def two_in_shard_0(engine: Engine) -> None:
    """HOSPITAL and NEIGHBOUR are in shard 0, and nobody is in the other shards."""
    add_hospital(engine)
    add_hospital(engine, NEIGHBOUR)
    go(engine, placement.hand_over(engine, ADA, NEIGHBOUR, 0, shards=SHARDS)["number"])


def go(engine: Engine, number: int, *, settled: bool = True) -> None:
    """A hand-over goes to its end."""
    hand_overs.switch(engine, number, cut_by=700, now_us=NOW_US)
    if settled:
        hand_overs.settle(engine, number, NOW_US)


def dedicate(engine: Engine, hospital_id: str = HOSPITAL) -> dict[str, Any]:
    return placement.dedicate(engine, ADA, hospital_id, shards=SHARDS)


def share(engine: Engine, hospital_id: str = HOSPITAL) -> dict[str, Any]:
    return placement.share(engine, ADA, hospital_id, shards=SHARDS)


def arrived(engine: Engine, hospital_id: str = HOSPITAL) -> None:
    """The hand-over of a hospital is settled."""
    (row,) = (row for row in hand_overs.unsettled(engine) if row["hospital_id"] == hospital_id)
    go(engine, row["number"])


def dedicated(engine: Engine) -> set[int]:
    return placement.dedicated(engine)[0]


def test_a_hospital_is_handed_over_to_an_empty_shard_that_is_its_own_from_the_order_on(engine: Engine) -> None:
    assert dedicate(engine) == {"hospital_id": HOSPITAL, "placement": "dedicated", "shard": 0, "to_shard": 1}
    assert placement.dedicated(engine) == ({1}, {0})
    arrived(engine)
    assert placement.placement_of(engine, HOSPITAL) == {
        "hospital_id": HOSPITAL, "placement": "dedicated", "shard": 1, "to_shard": None,
    }  # fmt: skip
    assert placement.dedicated(engine) == ({1}, set())


def test_an_order_that_is_given_again_changes_nothing(engine: Engine) -> None:
    assert share(engine)["placement"] == "shared"
    first = dedicate(engine)
    written = list_writes(engine, limit=50).rows
    assert dedicate(engine) == first
    assert list_writes(engine, limit=50).rows == written
    assert [row["action"] for row in written[:2]] == ["hospital.place", "hospital.hand-over"]
    assert len(hand_overs.unsettled(engine)) == 1


def test_a_hospital_that_is_alone_in_its_shard_stays_there(engine: Engine) -> None:
    go(engine, placement.hand_over(engine, ADA, NEIGHBOUR, 3, shards=SHARDS)["number"], settled=False)
    assert dedicate(engine) == {"hospital_id": HOSPITAL, "placement": "dedicated", "shard": 0, "to_shard": None}
    assert hand_overs.unsettled(engine)[0]["hospital_id"] == NEIGHBOUR


def test_one_to_whom_another_is_on_its_way_is_not_alone(engine: Engine) -> None:
    add_hospital(engine, "sz.h901")
    placement.hand_over(engine, ADA, HOSPITAL, 1, shards=SHARDS)
    assert dedicate(engine, "sz.h901")["to_shard"] == 2


def test_new_hospitals_are_never_put_into_a_dedicated_shard(engine: Engine) -> None:
    devices.import_devices(engine, ADA, NEIGHBOUR, [NewDevice(f"d-{n}", "wearable") for n in range(30)])
    dedicate(engine)
    for when in ("on-its-way", "there"):
        made = [HospitalManifest(f"sz.{when}{number}", "New", Tier.PRIMARY, 1) for number in range(3)]
        registered = register_fleet(engine, ADA, FleetManifest(made), shards=SHARDS).hospitals
        assert 1 not in {one.shard for one in registered}
        assert add_hospital(engine, f"sz.{when}")["shard"] != 1
        if when == "on-its-way":
            arrived(engine)


def test_it_goes_back_to_the_least_loaded_of_the_others_and_leaves_an_empty_shard(engine: Engine) -> None:
    devices.import_devices(engine, ADA, NEIGHBOUR, [NewDevice("d-1", "wearable")])
    dedicate(engine)
    with pytest.raises(Conflict, match="on its way to shard 1"):
        share(engine)
    hand_overs.switch(engine, hand_overs.unsettled(engine)[0]["number"], cut_by=700, now_us=NOW_US)
    with pytest.raises(Conflict, match="came to shard 1 just now"):
        share(engine)
    arrived(engine)
    assert share(engine) == {"hospital_id": HOSPITAL, "placement": "shared", "shard": 1, "to_shard": 2}
    assert placement.dedicated(engine) == (set(), {1})
    arrived(engine)
    assert dedicate(engine, NEIGHBOUR)["to_shard"] is None, "it is alone in shard 0 now"
    assert dedicate(engine)["to_shard"] is None


def test_nobody_is_handed_over_to_a_dedicated_shard_and_its_hospital_to_no_other(engine: Engine) -> None:
    dedicate(engine)
    with pytest.raises(Conflict, match=f"shard 1 is for hospital '{HOSPITAL}' alone"):
        placement.hand_over(engine, ADA, NEIGHBOUR, 1, shards=SHARDS)
    with pytest.raises(Conflict, match="has a shard of its own"):
        placement.hand_over(engine, ADA, HOSPITAL, 2, shards=SHARDS)


def test_without_an_empty_shard_it_is_refused_with_what_would_help(engine: Engine) -> None:
    for number in range(1, SHARDS):
        add_hospital(engine, f"sz.full{number}")
    with pytest.raises(Conflict, match="the emptiest, shard 1, holds 1 hospital; hand it over to other shards first"):
        dedicate(engine)
    assert places.get_hospital(engine, HOSPITAL)["placement"] == "shared"
    assert hand_overs.unsettled(engine) == []


def test_one_shard_is_left_to_the_others(engine: Engine) -> None:
    for number in range(1, SHARDS):
        add_hospital(engine, f"sz.full{number}")
        dedicate(engine, f"sz.full{number}")
    with pytest.raises(Conflict, match="no shard is left for a hospital alone"):
        dedicate(engine)
    assert add_hospital(engine, "sz.new")["shard"] == 0


def test_an_unknown_hospital_is_said(engine: Engine) -> None:
    for order in (dedicate, share):
        with pytest.raises(NotFound, match="nobody' is unknown"):
            order(engine, "sz.nobody")
