"""Recordings as sources of a generator: real patients, or a fleet of ours, played through the doors again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from domain.errors import NotFound
from domain.fleet_manifest import FleetManifest
from scenarios.connections import Sender
from scenarios.generator_orders import RecordingRecipe
from scenarios.model import Fault
from scenarios.roster import Roster
from sim.emission import Emission
from sim.recordings import Recording, open_recording

_OLDEST_YEARS: Final = 130
_REPOSITORY: Final = Path(__file__).resolve().parent.parent


def find_recording(path: str, times: int, limit: int | None, region_id: str) -> Recording:
    """The recording at `place_of(path)`. Errors as `sim.recordings.open_recording`."""
    return _with_credible_ages(open_recording(place_of(path), times=times, limit=limit, region_id=region_id))


def place_of(path: str) -> Path:
    """Where a recording is: in the caller's folder, or one that comes with the code. Other processes have another folder.

    Raises NotFound.
    """
    given = Path(path)
    for place in (given, _REPOSITORY / given):
        if place.exists():
            return place.resolve()
    raise NotFound(f"there is no recording at {given.resolve()}")


def _with_credible_ages(recording: Recording) -> Recording:
    """Real records hold ages such as 200 years; the platform registers no such patient, so the age goes as unknown."""
    hospitals = []
    for hospital in recording.manifest.hospitals:
        ages = [age if age is not None and 0 <= age <= _OLDEST_YEARS else None for age in hospital.patients.ages_years]
        patients = msgspec.structs.replace(hospital.patients, ages_years=ages)
        hospitals.append(msgspec.structs.replace(hospital, patients=patients))
    return replace(recording, manifest=FleetManifest(hospitals))


def manifest_of_recording(path: str, times: int, limit: int | None, region_id: str) -> FleetManifest:
    """What must be registered before the recording can be played."""
    return find_recording(path, times, limit, region_id).manifest


class RecordedSource:
    """One recording, due `speed` times as fast as it was made; it ends with the run even when it has more."""

    def __init__(self, recipe: RecordingRecipe) -> None:
        self._recipe = recipe
        self.recording = find_recording(recipe.path, recipe.times, recipe.limit, recipe.region_id)
        roster = Roster.of([(self.recording.manifest, recipe.registered)])
        hospital_id = self.recording.manifest.hospitals[0].hospital_id
        self.senders = [
            Sender(
                roster.tokens[hospital_id, gateway.device_id], roster.handle_of[hospital_id, gateway.device_id],
                hospital_id, as_json=self.recording.as_json,
            )
            for gateway in self.recording.gateways
        ]  # fmt: skip
        self.faults: list[Fault] = []

    def emissions(self, start_us: int, duration_s: float | None) -> Iterator[Emission]:
        for emission in self.recording.emissions(start_us, self._recipe.registered, speed=self._recipe.speed):
            if duration_s is not None and emission.due_s > duration_s:
                return
            yield emission

    def hospital_ids(self) -> list[str]:
        return [hospital.hospital_id for hospital in self.recording.manifest.hospitals]

    def truth(self) -> list[tuple[str, float, str, str]]:
        return []
