"""What a shard answers: latest values, freshness by minute, actors in words."""

from __future__ import annotations

import math

import pytest

from domain.errors import NotFound
from domain.ids import Address
from domain.messages import DeviceEvent, FreshnessQuery, LatestQuery
from domain.metrics import metric_of
from tests.cell_streams import HOSPITAL, UNUSABLE, Desk, admitted, associated, at, readings, registered


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.tell(registered({1: "monitor@1", 2: "fridge@1"}), registered({3: "monitor@1"}, hospital_id="sz.h002"))
    desk.tell(admitted(100, bed_id="b1", ward_id="icu"), associated(1, (100, -100, None)))
    desk.tick(0)
    return desk


def test_latest_gives_the_newest_of_each_channel_that_delivered_and_its_state(desk: Desk) -> None:
    desk.read(readings(1, "heart_rate", [0, 1], [70, 71]))
    desk.read(readings(1, "abp_sys", [1], [math.nan], quality=UNUSABLE))
    desk.read(readings(2, "fridge_temp", [1], [4], instance=1))
    table = desk.cell.answer(LatestQuery())
    rows = {(row["handle"], row["metric"], row["instance"]): (row["value"], row["state"]) for row in table.to_pylist()}
    assert rows[1, metric_of("heart_rate").id, 0] == (71, "live")
    assert rows[1, metric_of("abp_sys").id, 0][1] == "not-in-use"
    assert rows[2, metric_of("fridge_temp").id, 1] == (4, "live")
    assert table.column_names == ["handle", "instance", "metric", "time_us", "arrival_us", "value", "quality", "state"]


def test_latest_can_be_narrowed_to_devices_metrics_and_a_hospital(desk: Desk) -> None:
    for device in (1, 3):
        desk.read(readings(device, "heart_rate", [0], [70]))
        desk.read(readings(device, "resp_rate", [0], [16]))
    assert desk.cell.answer(LatestQuery(handles=[3], metrics=[metric_of("resp_rate").id])).num_rows == 1
    assert set(desk.cell.answer(LatestQuery(hospital_id="sz.h002"))["handle"].to_pylist()) == {3}
    assert desk.cell.answer(LatestQuery(hospital_id="sz.h999")).num_rows == 0


def test_states_follow_silence_and_lost_signals(desk: Desk) -> None:
    desk.read(readings(1, "heart_rate", [0], [70]))
    desk.read(readings(1, "resp_rate", [0], [16]))
    desk.tick_through(0, 12, every_s=4)
    desk.read(readings(1, "resp_rate", [14], [math.nan], quality=UNUSABLE))
    desk.tick(16)
    assert set(desk.cell.answer(LatestQuery())["state"].to_pylist()) == {"stale", "invalid"}


@pytest.mark.clause("6.2c")
def test_freshness_counts_the_last_full_minute_against_what_is_in_use(desk: Desk) -> None:
    start = 60 - at(0) // 1_000_000 % 60  # the next full minute
    desk.read(readings(1, "heart_rate", [start + second for second in range(60)], [70] * 60))
    desk.tick(start + 59)
    assert _freshness(desk, 1)["received_per_min"] == 0  # that minute is not over
    desk.tick(start + 60)
    row = _freshness(desk, 1)
    assert (row["expected_per_min"], row["received_per_min"], row["state"]) == (60, 60, "live")
    desk.tick(start + 120)
    assert _freshness(desk, 1)["received_per_min"] == 0


def test_freshness_tells_never_stale_and_silent(desk: Desk) -> None:
    desk.read(readings(1, "heart_rate", [0], [70]))
    desk.read(readings(1, "body_temp", [0], [37]))
    assert _freshness(desk, 3)["state"] == "never"
    assert _freshness(desk, 3)["expected_per_min"] > 600  # of a device that never came, all that its model promises
    for second in range(4, 24, 4):
        desk.tick(second)
    assert _freshness(desk, 1)["state"] == "stale"
    desk.tell(DeviceEvent(HOSPITAL, 1, "offline", at(24)), at_s=24)
    assert _freshness(desk, 1)["state"] == "silent"


def test_a_device_is_described_with_its_patient_and_channels(desk: Desk) -> None:
    desk.read(readings(1, "heart_rate", [0], [70]))
    described = desk.cell.describe(Address.parse(f"device:{HOSPITAL}/dev-1"))
    assert (described["model"], described["patient_key"], described["is_offline"]) == ("monitor@1", "p100", False)
    heart_rate = next(channel for channel in described["channels"] if channel["metric"] == "heart_rate")
    assert (heart_rate["value"], heart_rate["state"], heart_rate["received"]) == (70, "live", 1)


def test_a_patient_a_bed_and_a_hospital_are_described(desk: Desk) -> None:
    desk.read(readings(1, "heart_rate", [0], [70]))
    patient = desk.cell.describe(Address.parse(f"patient:{HOSPITAL}/p100"))
    assert patient["devices"] == ["dev-1"]
    assert patient["is_monitored"]
    assert desk.cell.describe(Address.parse(f"bed:{HOSPITAL}/b1"))["patients"] == ["p100"]
    hospital = desk.cell.describe(Address.parse(f"hospital:{HOSPITAL}/main"))
    assert (hospital["patients"], hospital["channels"]["live"], hospital["devices_in_outage"]) == (1, 1, 0)


@pytest.mark.parametrize("address", ["device:sz.h001/none", "patient:sz.h001/none", "bed:sz.h001/none", "hospital:sz.h009/x"])
def test_what_is_not_here_is_not_found(desk: Desk, address: str) -> None:
    with pytest.raises(NotFound, match=address):
        desk.cell.describe(Address.parse(address))


def test_each_handle_has_its_hospital_for_the_lake(desk: Desk) -> None:
    handles = desk.cell.answer(FreshnessQuery())["handle"].to_numpy()
    assert dict(zip(handles.tolist(), desk.cell.hospital_of(handles).to_pylist(), strict=True)) == {
        1: HOSPITAL, 2: HOSPITAL, 3: "sz.h002", 100: HOSPITAL,
    }  # fmt: skip
    assert desk.cell.hospital_ids() == [HOSPITAL, "sz.h002"]
    assert desk.cell.device_count == 4


def _freshness(desk: Desk, handle: int) -> dict[str, object]:
    return desk.cell.answer(FreshnessQuery(handles=[handle])).to_pylist()[0]
