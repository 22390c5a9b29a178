"""Who is who in a run: handles, senders and patients, from what was registered and what the platform answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from domain.fleet_manifest import FleetManifest, FleetRegistered, HospitalManifest, HospitalRegistered
from domain.thing_catalogue import thing_model
from domain.thing_models import Modality
from scenarios.query_load import Place


@dataclass
class Roster:
    """Look-ups over everything registered for a run.

    device_of: handle -> (hospital, device id); sender_of: handle of a device or patient -> handle of whoever sends
    for it; patient_keys: `sz.h001/p000012` -> opaque key; monitored: those references that wear a monitor; places:
    devices to ask questions about.
    """

    device_of: dict[int, tuple[str, str]] = field(default_factory=dict)
    sender_of: dict[int, int] = field(default_factory=dict)
    handle_of: dict[tuple[str, str], int] = field(default_factory=dict)
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)
    patient_keys: dict[str, str] = field(default_factory=dict)
    monitored: set[str] = field(default_factory=set)
    places: list[Place] = field(default_factory=list)
    hospitals: list[str] = field(default_factory=list)

    @property
    def device_count(self) -> int:
        return len(self.device_of)

    @classmethod
    def of(cls, pairs: Sequence[tuple[FleetManifest, FleetRegistered]]) -> Roster:
        """The roster of several fleets together."""
        roster = cls()
        for manifest, registered in pairs:
            for hospital, answer in zip(manifest.hospitals, registered.hospitals, strict=True):
                roster._add(hospital, answer)
        return roster

    def _add(self, hospital: HospitalManifest, answer: HospitalRegistered) -> None:
        name = hospital.hospital_id
        devices = hospital.devices
        self.hospitals.append(name)
        local = dict(zip(devices.device_ids, answer.handles, strict=True))
        for device_id, handle in local.items():
            self.device_of[handle] = (name, device_id)
            self.handle_of[name, device_id] = handle
        for device_id, token in answer.tokens.items():
            self.tokens[name, device_id] = token
        for device_id, gateway_id in zip(devices.device_ids, devices.gateway_ids or [None] * len(local), strict=True):
            self.sender_of[local[device_id]] = local[gateway_id] if gateway_id else local[device_id]
        models = dict(zip(devices.device_ids, devices.models, strict=True))
        patients = hospital.patients
        for ref, key, handle, ids in zip(
            patients.refs, answer.patient_keys, answer.patient_handles, patients.device_ids, strict=True
        ):
            self.patient_keys[f"{name}/{ref}"] = key
            if any(models[device_id].startswith("monitor") for device_id in ids):
                self.monitored.add(f"{name}/{ref}")
            if ids:
                self.sender_of[handle] = self.sender_of[local[ids[0]]]
        self._add_places(hospital)

    def _add_places(self, hospital: HospitalManifest, at_most: int = 20) -> None:
        devices = hospital.devices
        chosen = 0
        for device_id, model, ward_id in zip(devices.device_ids, devices.models, devices.ward_ids, strict=True):
            metric = first_continuous(model)
            if ward_id is None or metric is None or chosen >= at_most:
                continue
            self.places.append(Place(hospital.hospital_id, ward_id, device_id, metric))
            chosen += 1


def first_continuous(model: str) -> str | None:
    """The first metric that devices of a model measure all the time."""
    channels = thing_model(model).channels
    return next((channel.metric for channel in channels if channel.modality is Modality.CONTINUOUS), None)
