"""One contract for telling and asking actors, wherever they are: in the same host, in another one, or from no host at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from actors.host import Host
from actors.mailboxes import TELLABLE
from actors.post import Post
from domain import subjects
from domain.errors import InvalidInput, NotFound, Unavailable
from domain.ids import ActorKind, Address
from domain.messages import (
    AssociationSpan,
    Control,
    DescribeActor,
    DeviceAssociated,
    DeviceEvent,
    DevicesRegistered,
    LimitsPreset,
    MaintenanceSet,
    PatientAdmitted,
    Tell,
    decode_control,
    encode,
)
from runtime.bus import Bus
from tests.host_rig import HostRig, caught_up, kept, send
from tests.waiting import until

pytestmark = pytest.mark.integration

HOSPITAL, OTHER = "sz.h001", "sz.h002"
MONITOR = Address(ActorKind.DEVICE, HOSPITAL, "mon-7")
PATIENT = Address(ActorKind.PATIENT, HOSPITAL, "p100")
BED = Address(ActorKind.BED, HOSPITAL, "b1")
ALL = (MONITOR, PATIENT, BED, Address(ActorKind.HOSPITAL, HOSPITAL, "all"))
OFFLINE = DeviceEvent(HOSPITAL, 7, "offline", 1_790_000_000_000_000)
PRESET = LimitsPreset(HOSPITAL, 100, "heart_rate", (40.0, 50.0, 120.0, None))
WHO_IS_WHERE: tuple[tuple[int, Control], ...] = (
    (0, DevicesRegistered(HOSPITAL, [7], ["mon-7"], ["monitor@1"], ["icu"], ["b1"])),
    (0, PatientAdmitted(HOSPITAL, "p100", 100, age_years=60.0, bed_id="b1")),
    (0, DeviceAssociated(HOSPITAL, 7, [AssociationSpan(100, 0)])),
    (1, DevicesRegistered(OTHER, [9], ["mon-9"], ["monitor@1"], ["icu"], ["b1"])),
)


@dataclass
class Region:
    """Two hosts: `holder` has the shard of HOSPITAL, `other` that of OTHER; a post at each, and one that is at no host."""

    holder: Host
    other: Host
    posts: dict[str, Post]
    bus: Bus

    async def told(self) -> list[Control]:
        """Control messages in the stream behind those that say who is where."""
        payloads = await kept(self.bus, subjects.READINGS_STREAM)
        return [decode_control(payload) for payload in payloads if payload[:1] == b"{"][len(WHO_IS_WHERE) :]


@pytest.fixture
def rig(tmp_path: Path, nats_url: tuple[str, str]) -> HostRig:
    return HostRig(tmp_path, nats_url)


@pytest.fixture
async def region(bus: Bus, rig: HostRig) -> AsyncIterator[Region]:
    for number, (shard, message) in enumerate(WHO_IS_WHERE):
        await bus.publish(subjects.control(shard), encode(message), f"who-{number}")
    async with rig.host("host-1", shard_0=1) as holder, rig.host("host-2", shard_1=1) as other:
        await caught_up(holder, 0, 3)
        await caught_up(other, 1, 4)
        yield Region(holder, other, {"local": holder.post, "remote": other.post, "outside": Post(bus)}, bus)


@pytest.fixture(params=["local", "remote", "outside"])
def post(region: Region, request: pytest.FixtureRequest) -> Post:
    return region.posts[request.param]


async def is_offline(region: Region) -> bool:
    return (await region.posts["local"].ask(MONITOR, DescribeActor()))["is_offline"] is True


@pytest.mark.parametrize("address", ALL, ids=str)
async def test_an_actor_describes_itself_alike_from_everywhere(region: Region, address: Address) -> None:
    said = [await post.ask(address, DescribeActor()) for post in region.posts.values()]
    assert said[0]["address"] == str(address)
    for one in said:
        one.pop("at_us")  # ticks go on
        one.pop("early_warning", None)
    assert said[0] == said[1] == said[2]


async def test_what_a_device_is_told_is_in_its_shards_stream_and_then_in_its_state(region: Region, post: Post) -> None:
    posted = await post.tell(MONITOR, OFFLINE)
    message = await region.bus.get_message(subjects.READINGS_STREAM, posted.sequence)
    assert message is not None
    assert (posted.shard, message.subject, decode_control(message.payload)) == (0, subjects.control(0), OFFLINE)
    await caught_up(region.holder, 0, posted.sequence)
    assert await is_offline(region)


async def test_a_patient_is_told_its_limits(region: Region, post: Post) -> None:
    posted = await post.tell(PATIENT, PRESET)
    await caught_up(region.holder, 0, posted.sequence)
    assert await region.told() == [PRESET]


async def test_told_twice_under_one_id_is_told_once(region: Region, post: Post) -> None:
    first = await post.tell(MONITOR, OFFLINE, message_id="m-1")
    assert await post.tell(MONITOR, OFFLINE, message_id="m-1") == first
    assert await region.told() == [OFFLINE]


async def test_one_id_of_two_actors_is_two_messages(region: Region, post: Post) -> None:
    await post.tell(MONITOR, OFFLINE, message_id="1")
    await post.tell(PATIENT, PRESET, message_id="1")
    assert await region.told() == [OFFLINE, PRESET]


@pytest.mark.parametrize(
    ("address", "message", "sentence"),
    [
        (BED, OFFLINE, "a bed does not understand a DeviceEvent: expected one of describe"),
        (PATIENT, OFFLINE, "a patient does not understand a DeviceEvent"),
        (MONITOR, PRESET, "a device does not understand a LimitsPreset: expected one of describe, device-event"),
        (MONITOR, msgspec.structs.replace(OFFLINE, event="tea_time"), "'tea_time' is not one of thing model monitor@1"),
        (MONITOR, MaintenanceSet(HOSPITAL, 0, 1, 7), "does not understand a MaintenanceSet"),
        (MONITOR, msgspec.structs.replace(OFFLINE, handle=8), "about handle 8 of sz.h001, device:sz.h001/mon-7 has handle 7"),
        (MONITOR, msgspec.structs.replace(OFFLINE, hospital_id=OTHER), "about handle 7 of sz.h002"),
        (PATIENT, msgspec.structs.replace(PRESET, metric="humour"), "metric 'humour' is unknown"),
        (PATIENT, msgspec.structs.replace(PRESET, limits=(9.0, 5.0, 3.0, 1.0)), "must rise"),
    ],
)
async def test_what_an_actor_does_not_understand_is_refused_and_kept_nowhere(
    region: Region, post: Post, address: Address, message: Control, sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        await post.tell(address, message)
    assert await region.told() == []


async def test_an_actor_that_is_not_there_is_not_found(post: Post) -> None:
    for address in (Address(ActorKind.DEVICE, HOSPITAL, "mon-8"), Address(ActorKind.PATIENT, HOSPITAL, "p101")):
        with pytest.raises(NotFound, match="is not known"):
            await post.ask(address, DescribeActor())
    with pytest.raises(NotFound, match="is not known"):
        await post.tell(Address(ActorKind.DEVICE, HOSPITAL, "mon-8"), OFFLINE)


async def test_a_hospital_that_nobody_holds_is_unavailable(post: Post) -> None:
    with pytest.raises(Unavailable, match="nobody answers"):
        await post.ask(Address(ActorKind.DEVICE, "sz.h099", "mon-7"), DescribeActor())
    with pytest.raises(Unavailable, match="nobody answers"):
        await post.tell(Address(ActorKind.DEVICE, "sz.h099", "mon-7"), OFFLINE, timeout_s=0.3)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff\xfe", b"[]", b'{"type":"sing"}', b'{"type":"tell"}', encode(OFFLINE), encode(Tell("a b\n", OFFLINE))],
)
@pytest.mark.usefixtures("region")
async def test_a_message_that_cannot_be_read_is_answered_by_an_error(bus: Bus, payload: bytes) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        await bus.ask(subjects.actor(MONITOR), payload)


@pytest.mark.parametrize("subject", ["actor.ghost.sz.h001.x", "actor.device.sz.h001.mon.7", "actor.device.sz.h001.m$n"])
@pytest.mark.usefixtures("region")
async def test_a_subject_that_is_no_mailbox_is_answered_by_an_error(bus: Bus, subject: str) -> None:
    with pytest.raises(InvalidInput):
        await bus.ask(subject, encode(DescribeActor()))


async def test_what_was_told_outlives_the_host_that_took_it(bus: Bus, rig: HostRig) -> None:
    for number, (shard, message) in enumerate(WHO_IS_WHERE):
        await bus.publish(subjects.control(shard), encode(message), f"who-{number}")
    async with rig.host("host-1", is_killed=True, shard_0=1) as host:
        await caught_up(host, 0, 3)
        posted = await Post(bus).tell(MONITOR, OFFLINE)
    async with rig.host("host-2", shard_0=2) as host:
        await caught_up(host, 0, posted.sequence)
        assert (await host.post.ask(MONITOR, DescribeActor()))["last_event"] == "offline"


async def test_a_shard_that_moved_is_answered_for_by_its_new_host_alone(
    region: Region, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        await region.holder.release(0)
        await region.other.acquire(0, 2)
        for post in region.posts.values():
            for _ in range(5):  # a former host that still answered would be quicker now and then
                assert (await post.ask(MONITOR, DescribeActor()))["handle"] == 7
    assert caplog.records == []


async def test_a_shard_taken_by_force_is_answered_for_by_its_new_host_alone(region: Region) -> None:
    await region.other.acquire(0, 2)
    await send(region.bus, 0, 7, "heart_rate", {1: 80.0})  # a row that the former host may not commit
    await until(lambda: not region.holder.heartbeat().shards)
    for _ in range(20):
        assert (await region.posts["outside"].ask(MONITOR, DescribeActor()))["handle"] == 7


async def test_a_tell_waits_for_a_shard_that_is_on_its_way(region: Region) -> None:
    await region.holder.release(0)
    telling = asyncio.create_task(region.posts["outside"].tell(MONITOR, OFFLINE))
    await asyncio.sleep(0)
    await region.other.acquire(0, 2)
    posted = await telling
    await caught_up(region.other, 0, posted.sequence)
    assert await region.told() == [OFFLINE]


def test_every_kind_of_actor_says_what_it_understands() -> None:
    assert set(TELLABLE) == set(ActorKind)
