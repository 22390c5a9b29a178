"""A fleet in one document: hospitals with their devices and patients, registered in one call and one transaction.

Columns (parallel lists) because a district is a hundred thousand devices. Ids are as in `domain.ids`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Tier(StrEnum):
    """Chinese hospital tiers, by which fleets are stated in beds."""

    TERTIARY = "tertiary"  # 三级
    SECONDARY = "secondary"  # 二级
    PRIMARY = "primary"  # 一级 and community


class DeviceColumns(msgspec.Struct, frozen=True):
    """Devices of one hospital. `gateway_ids[i]` names the gateway device that carries device i, if any.

    `with_token[i]`: make a token for device i (it connects itself); others speak through their gateway.
    Wards and beds named here are created when they do not exist.
    """

    device_ids: list[str] = []
    models: list[str] = []
    ward_ids: list[str | None] = []
    bed_ids: list[str | None] = []
    gateway_ids: list[str | None] = []
    with_token: list[bool] = []


class PatientColumns(msgspec.Struct, frozen=True):
    """Patients of one hospital. `device_ids[i]` are associated with patient i from `admitted_us[i]` on.

    `names[i]` stays in the business database; None makes an anonymous patient.
    """

    refs: list[str] = []  # the sender's own reference, unique in the hospital (a medical record number)
    names: list[str | None] = []
    ages_years: list[float | None] = []
    pregnant: list[bool] = []
    spo2_scales: list[int] = []
    ward_ids: list[str | None] = []
    bed_ids: list[str | None] = []
    admitted_us: list[int] = []
    device_ids: list[list[str]] = []


class HospitalManifest(msgspec.Struct, frozen=True):
    hospital_id: str
    name: str
    tier: Tier
    beds: int
    devices: DeviceColumns = DeviceColumns()
    patients: PatientColumns = PatientColumns()


class FleetManifest(msgspec.Struct, frozen=True):
    """`even_on_patients`: give new tokens to devices, too, that are on patients by now, or carry what is: it cuts them off."""

    hospitals: list[HospitalManifest]
    even_on_patients: bool = False


class HospitalRegistered(msgspec.Struct, frozen=True):
    """Answers in the order of the manifest's columns. `tokens`: device id -> token, shown this once."""

    hospital_id: str
    shard: int
    handles: list[int]
    tokens: dict[str, str]
    patient_keys: list[str]
    patient_handles: list[int]


class FleetRegistered(msgspec.Struct, frozen=True):
    hospitals: list[HospitalRegistered]
