"""Who is at a door, asked of a real business database: what is remembered is dropped in time, strangers stay strangers."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine, event, insert, update

import runtime.identities
from domain.errors import Unauthenticated
from domain.fleet_manifest import Tier
from domain.ports import Sender
from domain.thing_models import Lane
from runtime.identities import SqlIdentities
from runtime.sealing import Sealer
from runtime.sql import devices, hand_overs, isolations, patients, placement, places
from runtime.sql.devices import NewDevice
from runtime.sql.engine import open_engine, writing
from runtime.sql.patients import NewPatient
from runtime.sql.records import Row
from runtime.sql.tables import devices as devices_table
from runtime.sql.tables import hospitals
from runtime.tasks import end
from runtime.tokens import token_digest
from tests.sql_fixtures import ADA, HOSPITAL, NOW_US, SHARDS, SmallHospital, add_hospital
from tests.waiting import until

pytestmark = pytest.mark.integration
OTHER = "sz.h002"


class Looks:
    """Counts the questions that a database is asked."""

    def __init__(self, engine: Engine) -> None:
        self.count = 0
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, *_: object) -> None:
        self.count += 1


def handles_of(*rows: Row | int) -> NDArray[np.uint32]:
    return np.array([row if isinstance(row, int) else row["handle"] for row in rows], dtype=np.uint32)


def register(engine: Engine, device_id: str, hospital_id: str = HOSPITAL) -> tuple[Row, str]:
    row, token = devices.register_device(engine, ADA, hospital_id, NewDevice(device_id, "monitor", with_token=True))
    assert token is not None
    return row, token


@pytest.mark.clause("9.3b")
async def test_a_token_names_its_device_its_hospital_and_shard(engine: Engine, hospital: SmallHospital) -> None:
    sender = await SqlIdentities(engine).identify(hospital.pump_token)
    assert (sender.name, sender.handle, sender.hospital_id) == (
        f"{HOSPITAL}/pump-3", hospital.pump["handle"], HOSPITAL,
    )  # fmt: skip
    assert sender.shard == places.get_hospital(engine, HOSPITAL)["shard"]
    assert sender.model is not None
    assert sender.model.id == hospital.pump["model"]


async def test_a_gateway_is_a_sender_without_channels_of_its_own(engine: Engine, hospital: SmallHospital) -> None:
    token = devices.rotate_token(engine, ADA, hospital.gateway["handle"])
    sender = await SqlIdentities(engine).identify(token)
    assert (sender.handle, sender.model) == (hospital.gateway["handle"], None)


@pytest.mark.clause("9.3b")
@pytest.mark.parametrize("wrong", ["", "pump-3", "x" * 10_000, "' OR 1=1 --"])
async def test_a_wrong_token_is_nobody(engine: Engine, hospital: SmallHospital, wrong: str) -> None:
    identities = SqlIdentities(engine)
    with pytest.raises(Unauthenticated):
        await identities.identify(wrong)
    with pytest.raises(Unauthenticated):
        await identities.identify(hospital.pump_token[:-1])


async def test_a_right_token_is_looked_up_once(engine: Engine, hospital: SmallHospital) -> None:
    identities = SqlIdentities(engine)
    first = await identities.identify(hospital.pump_token)
    looks = Looks(engine)
    assert [await identities.identify(hospital.pump_token) for _ in range(50)] == [first] * 50
    assert looks.count == 0


@pytest.mark.clause("9.3b")
async def test_a_retired_device_is_nobody_once_its_token_is_forgotten(engine: Engine, hospital: SmallHospital) -> None:
    identities = SqlIdentities(engine)
    await identities.identify(hospital.pump_token)
    devices.retire_device(engine, ADA, hospital.pump["handle"], version=None)
    identities.forget()
    with pytest.raises(Unauthenticated):
        await identities.identify(hospital.pump_token)


@pytest.mark.clause("9.3b")
async def test_a_rotated_token_ends_even_where_nobody_says_so(
    engine: Engine, hospital: SmallHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    identities = SqlIdentities(engine)
    await identities.identify(hospital.pump_token)
    new = devices.rotate_token(engine, ADA, hospital.pump["handle"])
    monkeypatch.setattr(runtime.identities, "_REMEMBER_S", 0.0)
    with pytest.raises(Unauthenticated):
        await identities.identify(hospital.pump_token)
    assert (await identities.identify(new)).handle == hospital.pump["handle"]


@pytest.mark.clause("9.3b")
async def test_a_credential_is_revoked_by_another_one_and_by_retirement_and_by_nothing_else(
    engine: Engine, hospital: SmallHospital
) -> None:
    identities = SqlIdentities(engine)
    gateway_token = devices.rotate_token(engine, ADA, hospital.gateway["handle"])
    pump, gateway = await identities.identify(hospital.pump_token), await identities.identify(gateway_token)
    devices.move_device(engine, ADA, pump.handle, ward_id=None, bed_id=None, version=None)
    assert await identities.revoked([pump, gateway]) == []
    devices.rotate_token(engine, ADA, pump.handle)
    assert await identities.revoked([pump, gateway]) == [pump]
    devices.retire_device(engine, ADA, gateway.handle, version=None)
    assert await identities.revoked([gateway, pump]) == [gateway, pump]


@pytest.mark.clause("9.3b")
@pytest.mark.clause("8.4d")
@pytest.mark.clause("9.4")
async def test_an_isolated_device_is_nobody_even_where_no_message_says_so_until_it_is_released(
    engine: Engine, hospital: SmallHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.identities, "_ISOLATED_EVERY_S", 0.01)
    identities, rechecks = SqlIdentities(engine), list[int]()
    pump = await identities.identify(hospital.pump_token)  # remembered from now on
    watching = asyncio.create_task(identities.keep_isolated(lambda: rechecks.append(1)))
    isolations.isolate(engine, ADA, pump.handle)
    await until(lambda: rechecks)
    assert await identities.revoked([pump]) == [pump]
    with pytest.raises(Unauthenticated, match="isolated"):
        await identities.identify(hospital.pump_token)
    isolations.release(engine, ADA, pump.handle)
    await until(lambda: len(rechecks) > 1)
    assert await identities.identify(hospital.pump_token) == pump
    await end(watching)


@pytest.mark.clause("9.4")
async def test_a_door_that_starts_later_knows_who_is_isolated(engine: Engine, hospital: SmallHospital) -> None:
    isolations.isolate(engine, ADA, hospital.pump["handle"])
    with pytest.raises(Unauthenticated):
        await SqlIdentities(engine).identify(hospital.pump_token)


@pytest.mark.clause("9.3b")
async def test_a_look_that_began_before_a_revocation_is_not_remembered_after_it(
    engine: Engine, hospital: SmallHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The door reads the token, the device is retired and forgotten, and only then the door's look comes back."""
    has_read, may_return = threading.Event(), threading.Event()

    def slow_look(of: Engine, tokens: list[str]) -> dict[str, Row]:
        rows = devices.devices_of_tokens(of, tokens)
        has_read.set()
        assert may_return.wait(10)
        return rows

    identities = SqlIdentities(engine)
    monkeypatch.setattr(runtime.identities, "devices_of_tokens", slow_look)
    looking = asyncio.create_task(identities.identify(hospital.pump_token))
    await asyncio.to_thread(has_read.wait, 10)
    devices.retire_device(engine, ADA, hospital.pump["handle"], version=None)
    identities.forget()
    may_return.set()
    await looking
    with pytest.raises(Unauthenticated):
        await identities.identify(hospital.pump_token)


@pytest.mark.clause("9.1b")
async def test_a_flood_of_wrong_tokens_is_few_looks_and_keeps_nobody_out(engine: Engine, hospital: SmallHospital) -> None:
    identities = SqlIdentities(engine)
    looks = Looks(engine)
    guesses = [identities.identify(f"wrong-{number}") for number in range(1_000)]
    *refused, found = await asyncio.gather(*guesses, identities.identify(hospital.pump_token), return_exceptions=True)
    assert {type(answer) for answer in refused} == {Unauthenticated}
    assert isinstance(found, Sender)
    few = looks.count
    assert few < 50
    again = await asyncio.gather(*(identities.identify(f"wrong-{n}") for n in range(1_000)), return_exceptions=True)
    assert {type(answer) for answer in again} == {Unauthenticated}
    assert looks.count == few


@pytest.mark.clause("9.1b")
async def test_a_token_that_was_wrong_is_right_once_it_is_given_to_a_device(engine: Engine, hospital: SmallHospital) -> None:
    identities = SqlIdentities(engine)
    token = "0123456789-from-elsewhere"
    with pytest.raises(Unauthenticated):
        await identities.identify(token)
    with writing(engine) as connection:
        taken = update(devices_table).where(devices_table.c.handle == hospital.gateway["handle"])
        connection.execute(taken.values(token_digest=token_digest(token)))
    with pytest.raises(Unauthenticated):
        await identities.identify(token)
    identities.forget()
    assert (await identities.identify(token)).handle == hospital.gateway["handle"]


@pytest.mark.clause("6.1")
async def test_handles_of_the_own_hospital_have_its_shard_and_all_others_have_none(
    engine: Engine, hospital: SmallHospital
) -> None:
    add_hospital(engine, OTHER)
    stranger, strangers_token = register(engine, "mon-1", OTHER)
    identities = SqlIdentities(engine)
    own = await identities.identify(hospital.pump_token)
    wanted = handles_of(hospital.monitor, stranger, hospital.patient, 0, 4_000_000_000, hospital.pump)
    shards = await identities.shards_of(own, wanted)
    assert shards.tolist() == [own.shard, -1, own.shard, -1, -1, own.shard]
    other = await identities.identify(strangers_token)
    assert other.shard != own.shard
    assert (await identities.shards_of(other, wanted)).tolist() == [-1, other.shard, -1, -1, -1, -1]


async def test_no_handles_have_no_shards(engine: Engine, hospital: SmallHospital) -> None:
    identities = SqlIdentities(engine)
    sender = await identities.identify(hospital.pump_token)
    assert (await identities.shards_of(sender, handles_of())).tolist() == []


async def test_a_device_registered_a_moment_ago_is_found_at_once(engine: Engine, hospital: SmallHospital) -> None:
    identities = SqlIdentities(engine)
    sender = await identities.identify(hospital.pump_token)
    await identities.shards_of(sender, handles_of(hospital.monitor))
    later, _ = register(engine, "mon-8")
    patient = patients.admit_patient(engine, ADA, HOSPITAL, NewPatient("MRN-2"))
    shards = await identities.shards_of(sender, handles_of(later, patient, hospital.monitor))
    assert shards.tolist() == [sender.shard] * 3


async def test_a_fleet_larger_than_the_first_memory_is_known(engine: Engine, hospital: SmallHospital) -> None:
    identities = SqlIdentities(engine)
    sender = await identities.identify(hospital.pump_token)
    await identities.shards_of(sender, handles_of(hospital.monitor))
    rows = [NewDevice(f"pump-{n}", "infusion-pump") for n in range(100, 1300)]
    reports = devices.import_devices(engine, ADA, HOSPITAL, rows)
    wanted = np.array([report.handle for report in reports], dtype=np.uint32)
    assert set((await identities.shards_of(sender, wanted)).tolist()) == {sender.shard}


@pytest.mark.clause("7.3")
async def test_readings_are_bulk_when_no_patient_depends_on_any_of_their_devices(
    engine: Engine, hospital: SmallHospital
) -> None:
    identities = SqlIdentities(engine)
    sender = await identities.identify(hospital.pump_token)
    reports = devices.import_devices(engine, ADA, HOSPITAL, [NewDevice(f"room-{n}", "room-sensor") for n in range(2)])
    rooms = [report.handle for report in reports if report.handle is not None]
    for mixed, lane in (
        (handles_of(*rooms), Lane.BULK), (handles_of(*rooms, hospital.monitor), Lane.PRIORITY),
        (handles_of(hospital.patient), Lane.PRIORITY), (handles_of(hospital.pump), Lane.PRIORITY),
    ):  # fmt: skip
        await identities.shards_of(sender, mixed)
        assert identities.lane_of(mixed) is lane


async def test_garbage_handles_cause_few_looks(
    engine: Engine, hospital: SmallHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred messages at a time, each with a handle that nobody has, share one look in each span of time."""
    monkeypatch.setattr(runtime.identities, "_REFRESH_EVERY_S", 0.02)
    identities = SqlIdentities(engine)
    sender = await identities.identify(hospital.pump_token)
    await identities.shards_of(sender, handles_of(hospital.monitor))
    looks = Looks(engine)
    garbage = [handles_of(3_000_000_000 + n) for n in range(100)]
    answers = await asyncio.gather(*(identities.shards_of(sender, handles) for handles in garbage))
    assert {int(shards[0]) for shards in answers} == {-1}
    assert looks.count <= 4


async def test_a_known_handle_does_not_wait_for_the_look_of_an_unknown_one(
    engine: Engine, hospital: SmallHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    identities = SqlIdentities(engine)
    sender = await identities.identify(hospital.pump_token)
    await identities.shards_of(sender, handles_of(hospital.monitor))
    monkeypatch.setattr(runtime.identities, "_REFRESH_EVERY_S", 3600.0)
    garbage = asyncio.create_task(identities.shards_of(sender, handles_of(3_000_000_000)))
    assert (await identities.shards_of(sender, handles_of(hospital.monitor))).tolist() == [sender.shard]
    assert not garbage.done()
    garbage.cancel()


@pytest.mark.clause("6.1")
async def test_a_hospital_that_is_older_by_the_clock_but_came_later_takes_nobodys_devices(
    engine: Engine, hospital: SmallHospital
) -> None:
    """A clock that was set back, or another computer's: the hospital sorts before those that are known already."""
    identities = SqlIdentities(engine)
    own = await identities.identify(hospital.pump_token)
    await identities.shards_of(own, handles_of(hospital.monitor))
    before = replace(ADA, now_us=NOW_US - 10**9)
    places.create_hospital(engine, before, hospital_id="sz.h000", name="早", tier=Tier.PRIMARY, bed_count=20, shards=SHARDS)
    stranger, token = register(engine, "mon-1", "sz.h000")
    other = await identities.identify(token)
    both = handles_of(hospital.monitor, stranger)
    assert (await identities.shards_of(other, both)).tolist() == [-1, other.shard]
    assert (await identities.shards_of(own, both)).tolist() == [own.shard, -1]


async def test_a_hospital_without_devices_knows_no_handle(engine: Engine, hospital: SmallHospital) -> None:
    with writing(engine) as connection:
        connection.execute(insert(hospitals).values(
            id=OTHER, name="空", tier="primary", beds=1, shard=1, created_us=NOW_US, version=1
        ))  # fmt: skip
    nobody = Sender(name=f"{OTHER}/none", handle=9, hospital_id=OTHER, shard=1, model=None)
    assert (await SqlIdentities(engine).shards_of(nobody, handles_of(hospital.monitor))).tolist() == [-1]


async def test_devices_registered_between_two_parts_of_a_look_are_not_lost(
    engine: Engine, hospital: SmallHospital, sealer: Sealer
) -> None:
    """Wherever a registration falls into a look, it is found by this one or the next."""
    identities = SqlIdentities(engine)
    sender = await identities.identify(hospital.pump_token)
    elsewhere = open_engine(engine.url.render_as_string(hide_password=False), sealer)
    made: list[Row] = []

    def register_between(*_: object) -> None:
        number = 100 + len(made)
        new, _token = register(elsewhere, f"mon-{number}")
        patients.admit_patient(elsewhere, ADA, HOSPITAL, NewPatient(f"MRN-{number}"))
        made.append(new)

    event.listen(engine, "after_cursor_execute", register_between)
    await identities.shards_of(sender, handles_of(hospital.monitor))
    event.remove(engine, "after_cursor_execute", register_between)
    elsewhere.dispose()
    assert made
    shards = await identities.shards_of(sender, handles_of(*made))
    assert shards.tolist() == [sender.shard] * len(made)


async def test_a_hospital_that_is_handed_over_is_found_in_its_new_shard(engine: Engine, hospital: SmallHospital) -> None:
    identities = SqlIdentities(engine)
    sender = await identities.identify(hospital.pump_token)
    keeper = asyncio.create_task(identities.keep_places())
    row = placement.hand_over(engine, ADA, HOSPITAL, 2, shards=SHARDS)
    assert identities.place_of(HOSPITAL, sender.shard) == 0
    hand_overs.switch(engine, row["number"], cut_by=1, now_us=NOW_US)
    identities.forget()
    await until(lambda: identities.place_of(HOSPITAL, sender.shard) == 2)
    gateway = replace(sender, model=None)
    assert (await identities.shards_of(gateway, handles_of(hospital.monitor))).tolist() == [2]
    await end(keeper)
