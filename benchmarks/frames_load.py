"""The load of throughput figures: monitors behind gateways, each gateway's readings of a second in one frame.

A district of bedside monitors at full rate: every gateway carries 500 of them, each says ten signs a second, so a frame
holds 5,000 readings. One monitor in ten is on a patient, so limits by age, NEWS2 and scores all have work.
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
SIGNS: Final = {  # metric -> (rest, scatter): within every limit of an adult, but for one reading in a thousand
    "heart_rate": (75.0, 1.0), "pulse_rate": (75.0, 1.0), "resp_rate": (16.0, 0.5), "spo2": (97.0, 0.5),
    "abp_sys": (120.0, 1.0), "abp_dia": (75.0, 1.0), "abp_mean": (90.0, 1.0), "etco2": (36.0, 0.3),
    "perfusion_index": (4.0, 0.1), "body_temp": (36.8, 0.05),
}  # fmt: skip
ABNORMAL_SHARE: Final = 0.001
READINGS_A_FRAME: Final = MONITORS_A_GATEWAY * len(SIGNS)


def manifest_of(hospitals: int, gateways: int, region_id: str) -> FleetManifest:
    """`gateways` over `hospitals`, as evenly as they divide."""
    bounds = np.linspace(0, gateways, hospitals + 1).round().astype(int).tolist()
    return FleetManifest([_hospital(f"{region_id}.b{n:03}", last - first) for n, (first, last) in enumerate(pairwise(bounds))])


def _hospital(hospital_id: str, gateways: int) -> HospitalManifest:
    names = [f"gw-{n:03}" for n in range(gateways)]
    monitors = [f"mon-{n:03}-{m:03}" for n in range(gateways) for m in range(MONITORS_A_GATEWAY)]
    nowhere: list[str | None] = [None] * (len(names) + len(monitors))
    wards = [*nowhere[:gateways], *(f"w-{n:03}-{m // 50}" for n in range(gateways) for m in range(MONITORS_A_GATEWAY))]
    worn = [[f"mon-{n:03}-{m:03}"] for n in range(gateways) for m in range(PATIENTS_A_GATEWAY)]
    people = len(worn)
    return HospitalManifest(
        hospital_id, hospital_id, Tier.TERTIARY, max(1, len(monitors)),
        DeviceColumns(
            [*names, *monitors], ["gateway"] * gateways + ["monitor"] * len(monitors), wards, nowhere,
            [*[None] * gateways, *(name for name in names for _ in range(MONITORS_A_GATEWAY))],
            [True] * gateways + [False] * len(monitors),
        ),
        PatientColumns(
            [f"p{n:05}" for n in range(people)], [None] * people, [60.0] * people, [False] * people, [1] * people,
            [None] * people, [None] * people, [1] * people, worn,
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sender:
    """One gateway: its token, its handle, and those of its monitors."""

    token: str
    handle: int
    monitors: range


def senders_of(manifest: FleetManifest, registered: FleetRegistered) -> list[Sender]:
    """The gateways of a registered manifest; handles of a gateway's monitors follow one another."""
    found = []
    for hospital, answer in zip(manifest.hospitals, registered.hospitals, strict=True):
        gateways = len(answer.tokens)
        for number in range(gateways):
            first = answer.handles[gateways + number * MONITORS_A_GATEWAY]
            token = answer.tokens[hospital.devices.device_ids[number]]
            found.append(Sender(token, answer.handles[number], range(first, first + MONITORS_A_GATEWAY)))
    return found


def frames_of(sender: Sender, seconds: int, start_us: int, rng: np.random.Generator, first: int = 0) -> list[bytes]:
    """One frame for each second: slow waves with noise, as a monitor rounds them. `first`: so many came before."""
    metrics = np.array([metric_of(code).id for code in SIGNS], dtype=np.uint16)
    rest, scatter = np.array(list(SIGNS.values())).T
    handle = np.repeat(np.arange(sender.monitors.start, sender.monitors.stop), len(metrics))
    frames = []
    for second in range(seconds):
        value = rng.normal(np.tile(rest, MONITORS_A_GATEWAY), np.tile(scatter, MONITORS_A_GATEWAY))
        value = np.round(np.where(rng.random(len(value)) < ABNORMAL_SHARE, 1.9 * value, value), 1)
        readings = ReadingBatch.of(
            handle=handle, metric=np.tile(metrics, MONITORS_A_GATEWAY), time_us=start_us + second * 1_000_000, value=value,
            source=sender.handle, sequence=np.arange(len(handle)) + 1 + (first + second) * len(handle),
        )  # fmt: skip
        frames.append(encode_frame(readings, source=sender.handle, sequence=first + second + 1, arrival_us=start_us))
    return frames
