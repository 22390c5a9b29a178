"""Two hospitals of a region with two wards, their patients, devices, readings and alarms, and callers of every reach."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from fastapi import FastAPI
from sqlalchemy import Engine, insert

from api.app import create_app
from domain.principals import Caller, Factor, Grant, Kind, Place, Principal, Relation, Role
from domain.readings import ReadingBatch
from runtime.clock import ManualClock
from runtime.large_questions import LargeReadings
from runtime.sql import associations, devices, grants, patients, places, users
from runtime.sql.engine import writing
from runtime.sql.tables import alarms
from tests.callers import ADMINISTRATOR, NOBODY, TOKEN, KnownCallers
from tests.sql_fixtures import ADA, ALL, NOW_US, add_hospital, later
from tests.unit.api.conftest import client_of, services_of
from tests.unit.api.small_platform import SmallPlatform

HEART: Final = 1
NAMES: Final = {"p1": "王小芳", "p2": "李大山", "p3": "赵明明"}
PLACES: Final = {"p1": ("sz.h001", "icu"), "p2": ("sz.h001", "w01"), "p3": ("sz.h002", "icu")}
WORN: Final = {"mon-1": "p1", "mon-2": "p2", "mon-3": "p3"}
NOTE: Final = "王小芳 called her son, 13800131234"


@dataclass
class Wards:
    """`keys`: patient key by short name; `handles`: by device or short name of a patient."""

    engine: Engine
    platform: SmallPlatform
    clock: ManualClock
    keys: dict[str, str] = field(default_factory=dict)
    handles: dict[str, int] = field(default_factory=dict)
    callers: dict[str, Caller] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for hospital_id, district in (("sz.h001", "futian"), ("sz.h002", "nanshan")):
            add_hospital(self.engine, hospital_id)
            places.update_hospital(self.engine, ADA, hospital_id, {"district": district}, version=None)
        for name, (hospital_id, ward_id) in PLACES.items():
            new = patients.NewPatient(f"MRN-{name}-77", NAMES[name], ward_id=ward_id, admitted_us=NOW_US - 10**9)
            row = patients.admit_patient(self.engine, ADA, hospital_id, new)
            self.keys[name], self.handles[name] = row["patient_key"], row["handle"]
        for name in (*WORN, "free-1"):
            hospital_id, ward_id = PLACES[WORN.get(name, "p1")]
            row, _ = devices.register_device(self.engine, ADA, hospital_id, devices.NewDevice(name, "monitor", ward_id))
            self.handles[name] = row["handle"]
        for name, who in WORN.items():
            associations.associate(self.engine, ADA, self.handles[name], self.keys[who], NOW_US - 10**8)
        self._raise_alarms()
        for name in (*WORN, "free-1"):
            self.measure(name, range(5))
        self.callers = self._callers()

    def _raise_alarms(self) -> None:
        common: dict[str, Any] = {
            "rule": "limit.high", "rule_version": 1, "alert_type": "PH", "priority": 2, "state": "active", "phase": "onset",
            "latching": False, "live": True, "text": "heart rate high", "onset_us": NOW_US, "last_event_us": NOW_US,
            "stream_sequence": 1, "version": 1, "note": NOTE,
        }  # fmt: skip
        rows = []
        for number, name in enumerate((*WORN, "free-1")):
            hospital_id, ward_id = PLACES[WORN.get(name, "p1")]
            patient_key = self.keys[WORN[name]] if name in WORN else None
            rows.append(common | {
                "alarm_id": f"a-{name}", "hospital_id": hospital_id, "ward_id": ward_id, "device_id": name,
                "handle": self.handles[name], "patient_key": patient_key, "raised_us": NOW_US + number,
            })  # fmt: skip
        with writing(self.engine) as connection:
            connection.execute(insert(alarms), rows)

    def measure(self, name: str, at_s: Sequence[float]) -> None:
        """Heart rates of a device, some seconds after `NOW_US`."""
        shard = places.get_hospital(self.engine, PLACES[WORN.get(name, "p1")][0])["shard"]
        times = [NOW_US + round(one * 1e6) for one in at_s]
        batch = ReadingBatch.of(handle=self.handles[name], metric=HEART, time_us=times, value=[70.0] * len(times))
        self.platform.take(shard, batch, times[-1])

    def hand_over(self, device: str, patient: str, *, off_s: float, on_s: float) -> None:
        """A device comes off its patient, and goes to another one later."""
        handle = self.handles[device]
        (span,) = associations.list_associations(self.engine, reach=ALL, handle=handle)
        associations.end_association(self.engine, later(off_s), span["id"], NOW_US + round(off_s * 1e6))
        associations.associate(self.engine, later(on_s), handle, self.keys[patient], NOW_US + round(on_s * 1e6))

    def _callers(self) -> dict[str, Caller]:
        def caller(name: str, role: Role, place: str, relation: Relation = Relation.ANY, **rest: Any) -> Caller:
            who = Principal(Kind.USER, f"u-{name}", name)
            return Caller(who, (Grant(role, Place.parse(place), relation),), factors=frozenset({Factor.PASSWORD}), **rest)

        treats = frozenset({self.keys["p2"]})
        return {
            "doctor": caller("doctor", Role.DOCTOR, "sz.h001"),
            "nurse": caller("nurse", Role.NURSE, "sz.h001/icu"),
            "team": caller("team", Role.DOCTOR, "sz.h001", Relation.CARE_TEAM, treats=treats),
            "patient": caller("patient", Role.PATIENT, "sz.h001", Relation.SELF, patient_key=self.keys["p1"]),
            "engineer": caller("engineer", Role.BIOMEDICAL_ENGINEER, "sz.h001"),
            "station": caller("station", Role.STATION, "sz.h001/icu"),
            "commission": caller("commission", Role.HEALTH_COMMISSION, "sz:futian"),
            "privacy": caller("privacy", Role.PRIVACY_OFFICER, "sz"),
            "security": caller("security", Role.SECURITY_ADMINISTRATOR, "sz"),
            "scientist": caller("scientist", Role.DATA_SCIENTIST, "sz"),
            "auditor": caller("auditor", Role.AUDIT_ADMINISTRATOR, "sz"),
            "nobody": NOBODY,
        }  # fmt: skip

    def app(self) -> FastAPI:
        known = KnownCallers({TOKEN: ADMINISTRATOR, **self.callers})
        return create_app(services_of(
            engine=self.engine, clock=self.clock, bus=self.platform, lake=self.platform.lake, readings=self.platform.store,
            large_readings=LargeReadings(self.platform), callers=known,
        ), background=False)  # fmt: skip

    def raise_level(self, patient: str) -> None:
        """As sensitive as can be."""
        patients.update_patient(self.engine, ADA, self.keys[patient], {"level": 5}, version=None)

    def add_user(self, name: str, role: Role, place: str) -> None:
        users.create_user(self.engine, ADA, name, "hashed", Grant(role, Place.parse(place)))

    def join_team(self, patient: str, name: str) -> None:
        grants.join_team(self.engine, ADA, self.keys[patient], name, None)


@contextlib.asynccontextmanager
async def open_wards(engine: Engine, folder: Path) -> AsyncIterator[tuple[Wards, FastAPI]]:
    """The application over both hospitals, running."""
    wards = Wards(engine, SmallPlatform(folder, engine), ManualClock(NOW_US + 10**7))
    app = wards.app()
    async with app.router.lifespan_context(app):
        yield wards, app


async def ask(app: FastAPI, who: str, path: str, **headers: str) -> httpx.Response:
    async with client_of(app, who) as client:
        return await client.get(f"http://test/api/v1/{path}", headers=headers)
