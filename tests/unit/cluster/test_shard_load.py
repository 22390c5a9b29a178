"""The load by which shards are spread over hosts."""

from __future__ import annotations

from cluster.shard_load import ShardLoad
from domain.messages import ShardHeld


def held(**devices: int) -> list[ShardHeld]:
    return [
        ShardHeld(shard=int(name[1:]), epoch=1, applied=0, committed=0, lag=0, high_water_us=0, devices=count, channels=0)
        for name, count in devices.items()
    ]


def test_devices_count_when_they_have_stood_still() -> None:
    load = ShardLoad()
    load.look(held(s0=100, s1=0), 10.0)
    load.look(held(s0=100, s1=0), 11.0)
    assert load.by_shard == {}
    load.look(held(s0=100, s1=100), 12.0)  # the other host has counted its part too
    load.look(held(s0=100, s1=100), 14.9)
    assert load.by_shard == {}
    load.look(held(s0=101, s1=100), 15.0)
    assert load.by_shard == {0: 101.0, 1: 100.0}


def test_a_device_more_now_and_then_does_not_put_it_off() -> None:
    load = ShardLoad()
    for second in range(10):
        load.look(held(s0=1_000 + second), float(second))
    assert load.by_shard == {0: 1_009.0}


def test_a_shard_on_its_way_keeps_the_load_it_had() -> None:
    load = ShardLoad()
    for second in range(5):
        load.look(held(s0=50, s1=70), float(second))
    load.look(held(s1=70), 5.0)
    assert load.by_shard == {0: 50.0, 1: 70.0}
