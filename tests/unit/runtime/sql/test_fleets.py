"""Whole fleets: tried without a trace, registered again, refused whole."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from domain.errors import Conflict, InvalidInput, NotFound, PatientAttached
from domain.fleet_manifest import DeviceColumns, FleetManifest, HospitalManifest, PatientColumns, Tier
from domain.messages import DeviceAssociated, DevicesRegistered, PatientAdmitted
from runtime.sql import devices
from runtime.sql.devices import device_of_token
from runtime.sql.fleets import Met, met_by, register_fleet
from runtime.sql.patients import list_patients
from runtime.sql.tables import handles, hospitals, outbox, patients, write_log
from tests.sql_fixtures import ADA, ALL, NOW_US, SHARDS, count, later, told


def fleet_hospital(hospital_id: str = "sz.h001", device_count: int = 3, **patient_columns: Any) -> HospitalManifest:
    """A gateway, monitors behind it, and a patient on the first monitor."""
    monitors = [f"mon-{n}" for n in range(device_count - 1)]
    columns = DeviceColumns(
        device_ids=[*monitors, "gw-1"], models=["monitor"] * len(monitors) + ["gateway@1"],
        ward_ids=["icu"] * len(monitors) + [None], bed_ids=[f"b-{n}" for n in range(len(monitors))] + [None],
        gateway_ids=["gw-1"] * len(monitors) + [None], with_token=[False] * len(monitors) + [True],
    )  # fmt: skip
    people: dict[str, Any] = {
        "refs": ["MRN-1"], "names": ["王小明"], "ages_years": [67.0], "pregnant": [False], "spo2_scales": [1],
        "ward_ids": ["icu"], "bed_ids": ["b-0"], "admitted_us": [NOW_US - 5], "device_ids": [["mon-0"]],
    }  # fmt: skip
    return HospitalManifest(hospital_id, "人民医院", Tier.TERTIARY, 900, columns, PatientColumns(**people | patient_columns))


def test_a_fleet_that_is_tried_leaves_nothing_and_is_not_told_to_hosts(engine: Engine) -> None:
    manifest = FleetManifest([fleet_hospital(), fleet_hospital("sz.h002")])
    tried = register_fleet(engine, ADA, manifest, shards=SHARDS, dry_run=True)
    assert [(one.hospital_id, one.shard, one.handles, one.tokens, one.patient_keys) for one in tried.hospitals] == [
        ("sz.h001", 0, [], {}, []), ("sz.h002", 1, [], {}, []),
    ]  # fmt: skip
    assert [count(engine, table) for table in (hospitals, handles, patients, outbox, write_log)] == [0] * 5
    done = register_fleet(engine, ADA, manifest, shards=SHARDS)
    assert [one.shard for one in done.hospitals] == [0, 1]


def test_a_fleet_that_is_wrong_is_found_out_by_trying(engine: Engine) -> None:
    manifest = FleetManifest([fleet_hospital(), fleet_hospital("sz.h002", device_ids=[["mon-99"]])])
    for dry_run in (True, False):
        with pytest.raises(InvalidInput, match=r"'mon-99' of patient 1 .* not one of hospital 'sz\.h002'"):
            register_fleet(engine, ADA, manifest, shards=SHARDS, dry_run=dry_run)
        assert count(engine, hospitals) == 0


@pytest.mark.clause("7.3")
def test_a_fleet_registered_again_gets_new_tokens_only_and_tells_hosts_nothing(engine: Engine) -> None:
    manifest = FleetManifest([fleet_hospital()])
    (first,) = register_fleet(engine, ADA, manifest, shards=SHARDS).hospitals
    before = told(engine)
    with pytest.raises(PatientAttached, match=r"sz\.h001/mon-0"):  # which the gateway carries
        register_fleet(engine, later(60), manifest, shards=SHARDS)
    assert device_of_token(engine, first.tokens["gw-1"]) is not None
    meant = FleetManifest(manifest.hospitals, even_on_patients=True)
    (second,) = register_fleet(engine, later(60), meant, shards=SHARDS).hospitals
    assert (second.handles, second.patient_keys, second.shard) == (first.handles, first.patient_keys, first.shard)
    assert told(engine) == before
    assert device_of_token(engine, first.tokens["gw-1"]) is None
    gateway = device_of_token(engine, second.tokens["gw-1"])
    assert gateway is not None
    assert (gateway["device_id"], gateway["version"]) == ("gw-1", 2)


def test_what_came_to_exist_since_it_was_asked_for_is_not_given(engine: Engine) -> None:
    manifest = FleetManifest([fleet_hospital()], even_on_patients=True)
    nothing = met_by(engine, manifest)
    (first,) = register_fleet(engine, ADA, manifest, shards=SHARDS, met=nothing).hospitals
    met = met_by(engine, manifest)
    assert set(met.devices) == {("sz.h001", "gw-1")}
    assert [patient.patient_key for patient in met.patients] == first.patient_keys
    for known in (nothing, Met(met.devices, ()), Met({}, met.patients)):
        with pytest.raises(Conflict, match=r"sz\.h001.*try again"):
            register_fleet(engine, ADA, manifest, shards=SHARDS, met=known)
    assert device_of_token(engine, first.tokens["gw-1"]) is not None
    (second,) = register_fleet(engine, ADA, manifest, shards=SHARDS, met=met).hospitals
    assert second.patient_keys == first.patient_keys


def test_answers_are_in_the_order_of_the_manifest_whatever_is_registered_first(engine: Engine) -> None:
    (made,) = register_fleet(engine, ADA, FleetManifest([fleet_hospital()]), shards=SHARDS).hospitals
    found = devices.devices_by_handle(engine, made.handles)
    assert [found[handle]["device_id"] for handle in made.handles] == ["mon-0", "mon-1", "gw-1"]
    assert {found[handle]["gateway_handle"] for handle in made.handles[:2]} == {made.handles[2]}
    (patient,) = list_patients(engine, reach=ALL, limit=9).rows
    assert (patient["patient_key"], patient["handle"]) == (made.patient_keys[0], made.patient_handles[0])
    kinds = [type(message) for message in told(engine)]
    assert kinds == [DevicesRegistered, PatientAdmitted, DeviceAssociated]


def test_hospitals_of_a_fleet_are_spread_by_their_devices(engine: Engine) -> None:
    sizes = (9, 4, 4, 3, 3)
    manifest = FleetManifest([fleet_hospital(f"sz.h00{n}", size) for n, size in enumerate(sizes)])
    assert [one.shard for one in register_fleet(engine, ADA, manifest, shards=3).hospitals] == [0, 1, 2, 1, 2]


def test_a_retired_device_is_not_revived_by_a_fleet(engine: Engine) -> None:
    (made,) = register_fleet(engine, ADA, FleetManifest([fleet_hospital()]), shards=SHARDS).hospitals
    devices.retire_device(engine, ADA, made.handles[1], version=1)
    with pytest.raises(Conflict, match="'mon-1' exists as a monitor@1, retired"):
        register_fleet(engine, ADA, FleetManifest([fleet_hospital()], even_on_patients=True), shards=SHARDS)


@pytest.mark.parametrize(
    ("columns", "error", "says"),
    [
        ({"names": []}, InvalidInput, "unequal length"),
        ({"ages_years": [300.0]}, InvalidInput, "300"),
        ({"refs": ["r" * 65]}, InvalidInput, "65 characters"),
        ({"bed_ids": ["b 0"]}, InvalidInput, "bed id"),
    ],
)
def test_a_wrong_patient_refuses_the_fleet(engine: Engine, columns: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        register_fleet(engine, ADA, FleetManifest([fleet_hospital(**columns)]), shards=SHARDS)
    assert count(engine, hospitals) == 0


def test_two_patients_of_one_reference_are_a_mistake(engine: Engine) -> None:
    twice = {name: value * 2 for name, value in vars_of(fleet_hospital().patients).items()} | {"device_ids": [[], []]}
    with pytest.raises(InvalidInput, match="same reference"):
        register_fleet(engine, ADA, FleetManifest([fleet_hospital(**twice)]), shards=SHARDS)


def test_an_unknown_model_refuses_the_fleet(engine: Engine) -> None:
    devices_wanted = DeviceColumns(["x"], ["toaster"], [None], [None], [None], [False])
    with pytest.raises(NotFound, match="toaster"):
        register_fleet(
            engine, ADA, FleetManifest([HospitalManifest("sz.h1", "n", Tier.PRIMARY, 1, devices_wanted)]), shards=SHARDS
        )


def vars_of(columns: PatientColumns) -> dict[str, Any]:
    return {name: getattr(columns, name) for name in columns.__struct_fields__}
