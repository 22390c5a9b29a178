"""The load of throughput figures: devices behind gateways, each gateway's readings of a second in one frame.

A district of bedside monitors at full rate: every gateway carries 500 of them, each says ten signs a second, so a frame
holds 5,000 readings. One monitor in ten is on a patient, so limits by age, NEWS2 and scores all have work. Or, as load
that no patient depends on: sensors of rooms, as many a gateway. A hospital may have monitors of its own beside: probes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from domain.fleet_manifest import DeviceColumns, FleetManifest, FleetRegistered, HospitalManifest, PatientColumns, Tier
from domain.frames import encode_frame
from domain.metrics import metric_of
from domain.readings import ReadingBatch

MONITORS_A_GATEWAY: Final = 500
PATIENTS_A_GATEWAY: Final = 50
SIGNS: Final = {  # metric -> (rest, scatter): within every limit of an adult, but for one reading in ten thousand
    "heart_rate": (75.0, 1.0), "pulse_rate": (75.0, 1.0), "resp_rate": (16.0, 0.5), "spo2": (97.0, 0.5),
    "abp_sys": (120.0, 1.0), "abp_dia": (75.0, 1.0), "abp_mean": (90.0, 1.0), "etco2": (36.0, 0.3),
    "perfusion_index": (4.0, 0.1), "body_temp": (36.8, 0.05),
}  # fmt: skip
ROOM: Final = {
    "room_temp": (22.0, 0.2), "room_humidity": (45.0, 1.0), "co2_concentration": (600.0, 20.0), "pm25": (12.0, 1.0),
    "noise": (45.0, 2.0), "illuminance": (300.0, 10.0), "differential_pressure": (5.0, 0.5),
}  # fmt: skip
# that is 86 readings a bed and day, and a few hundred alarm events of them, as intensive care has them
ABNORMAL_SHARE: Final = 0.0001
READINGS_A_FRAME: Final = MONITORS_A_GATEWAY * len(SIGNS)


@dataclass(frozen=True, slots=True)
class Load:
    """What gateways carry. `signs`: metric -> (rest, scatter); `abnormal_share` of readings lie beyond every limit."""

    model: str
    signs: dict[str, tuple[float, float]]
    devices_a_gateway: int
    patients_a_gateway: int
    abnormal_share: float = ABNORMAL_SHARE

    @property
    def readings_a_frame(self) -> int:
        return self.devices_a_gateway * len(self.signs)


MONITORS: Final = Load("monitor", SIGNS, MONITORS_A_GATEWAY, PATIENTS_A_GATEWAY)
SENSORS: Final = Load("room-sensor", ROOM, 700, 0)


def manifest_of(
    hospitals: int, gateways: int, region_id: str, load: Load = MONITORS, *, probes: int = 0, prefix: str = "b"
) -> FleetManifest:
    """`gateways` over `hospitals`, as evenly as they divide; each has `probes` monitors that connect themselves."""
    bounds = np.linspace(0, gateways, hospitals + 1).round().astype(int).tolist()
    return FleetManifest(
        [
            _hospital(f"{region_id}.{prefix}{n:03}", last - first, load, probes)
            for n, (first, last) in enumerate(pairwise(bounds))
        ]
    )


def _hospital(hospital_id: str, gateways: int, load: Load, probes: int) -> HospitalManifest:
    names = [f"gw-{n:03}" for n in range(gateways)]
    carried = [f"dev-{n:03}-{m:03}" for n in range(gateways) for m in range(load.devices_a_gateway)]
    own = [f"probe-{n:03}" for n in range(probes)]
    nowhere: list[str | None] = [None] * (len(names) + len(carried) + len(own))
    wards = [
        *nowhere[:gateways], *(f"w-{n:03}-{m // 50}" for n in range(gateways) for m in range(load.devices_a_gateway)),
        *nowhere[:probes],
    ]  # fmt: skip
    worn = [[f"dev-{n:03}-{m:03}"] for n in range(gateways) for m in range(load.patients_a_gateway)]
    people = len(worn)
    return HospitalManifest(
        hospital_id, hospital_id, Tier.TERTIARY, max(1, len(carried)),
        DeviceColumns(
            [*names, *carried, *own], ["gateway"] * gateways + [load.model] * len(carried) + ["monitor"] * probes,
            wards, nowhere,
            [*[None] * gateways, *(name for name in names for _ in range(load.devices_a_gateway)), *[None] * probes],
            [True] * gateways + [False] * len(carried) + [True] * probes,
        ),
        PatientColumns(
            [f"p{n:05}" for n in range(people)], [None] * people, [60.0] * people, [False] * people, [1] * people,
            [None] * people, [None] * people, [1] * people, worn,
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sender:
    """One gateway: its token, its handle, and those of what it carries."""

    token: str
    handle: int
    monitors: range


def senders_of(manifest: FleetManifest, registered: FleetRegistered, load: Load = MONITORS) -> list[Sender]:
    """The gateways of a registered manifest; handles of what a gateway carries follow one another."""
    found = []
    for hospital, answer in zip(manifest.hospitals, registered.hospitals, strict=True):
        gateways = hospital.devices.models.count("gateway")
        for number in range(gateways):
            first = answer.handles[gateways + number * load.devices_a_gateway]
            token = answer.tokens[hospital.devices.device_ids[number]]
            found.append(Sender(token, answer.handles[number], range(first, first + load.devices_a_gateway)))
    return found


def probes_of(manifest: FleetManifest, registered: FleetRegistered) -> list[tuple[str, int]]:
    """(token, handle) of the monitors that connect themselves."""
    return [
        (answer.tokens[device_id], handle)
        for hospital, answer in zip(manifest.hospitals, registered.hospitals, strict=True)
        for device_id, handle in zip(hospital.devices.device_ids, answer.handles, strict=True)
        if device_id.startswith("probe-")
    ]


def frames_of(
    sender: Sender, count: int, start_us: int, rng: np.random.Generator, load: Load = MONITORS, *,
    every_us: int = 1_000_000, first: int = 0,
) -> list[bytes]:  # fmt: skip
    """`count` frames, `every_us` apart, the first of number `first`: slow waves with noise, as a device rounds them."""
    metrics = np.array([metric_of(code).id for code in load.signs], dtype=np.uint16)
    rest, scatter = np.array(list(load.signs.values())).T
    devices = load.devices_a_gateway
    handle = np.repeat(np.arange(sender.monitors.start, sender.monitors.stop), len(metrics))
    frames = []
    for number in range(first, first + count):
        value = rng.normal(np.tile(rest, devices), np.tile(scatter, devices))
        value = np.round(np.where(rng.random(len(value)) < load.abnormal_share, 1.9 * value, value), 1)
        readings = ReadingBatch.of(
            handle=handle, metric=np.tile(metrics, devices), time_us=start_us + (number - first) * every_us, value=value,
            source=sender.handle, sequence=np.arange(len(handle)) + 1 + number * len(handle),
        )  # fmt: skip
        frames.append(encode_frame(readings, source=sender.handle, sequence=number + 1, arrival_us=start_us))
    return frames
