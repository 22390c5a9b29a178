"""Two hospitals with wards, beds, devices on patients, alarms and whatever else a permission can be asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec
from sqlalchemy import Engine

from domain.alarms import AlarmEvent, AlarmSubject, AlertType, Phase, Priority
from domain.erasures import Held
from domain.errors import Conflict
from domain.fleet_manifest import Tier
from domain.messages import Reject
from domain.permissions import Level, Located
from domain.principals import Grant, Place, Role
from runtime.bus import StreamState
from runtime.follower import StreamMessage
from runtime.sql import access, alarms, devices, grants, holds, patients, places, presets, sessions, users
from runtime.sql.devices import NewDevice
from runtime.sql.patients import NewPatient
from runtime.sql.records import Row
from runtime.sql.sessions import SessionRules
from tests.sql_fixtures import ADA, HOUR_US, NOW_US, SHARDS
from tests.unit.api.conftest import NoBus

DISTRICTS = {"sz.h001": "futian", "sz.h002": "nanshan"}
RULES = SessionRules(HOUR_US, HOUR_US)
WARDS = (("sz.h001", "icu"), ("sz.h001", "er"), ("sz.h002", "icu"))


@dataclass(frozen=True)
class Ward:
    """A ward, and one of everything in it. The device is on the patient."""

    number: int
    hospital_id: str
    ward_id: str
    patient_key: str
    handle: int
    association_id: int
    window_id: int
    grant_id: int
    session_id: str
    hold_id: int

    @property
    def alarm_id(self) -> str:
        return str(self.number) * 32

    @property
    def user(self) -> str:
        return f"user-{self.number}"

    @property
    def token(self) -> str:
        return f"token-{self.number}"

    @property
    def receipt(self) -> str:
        return f"reject-{self.number}"

    @property
    def device_id(self) -> str:
        return f"mon-{self.number}"

    @property
    def place(self) -> Place:
        return Place("sz", DISTRICTS[self.hospital_id], self.hospital_id, self.ward_id)

    @property
    def hospital(self) -> Place:
        return Place("sz", DISTRICTS[self.hospital_id], self.hospital_id)

    def of_patient(self) -> Located:
        return Located(self.place, Level.IDENTIFYING, self.patient_key)

    def path(self, template: str) -> str:
        """A route's path, about what is in this ward."""
        values = {
            "hospital_id": self.hospital_id, "ward_id": self.ward_id, "bed_id": f"bed-{self.number}", "sequence": self.number,
            "device_id": self.device_id, "patient_key": self.patient_key, "alarm_id": self.alarm_id, "metric": "spo2",
            "association_id": self.association_id, "window_id": self.window_id, "grant_id": self.grant_id, "code": "spo2",
            "session_id": self.session_id, "receipt": self.receipt, "hold_id": self.hold_id, "risk_id": 1,
            "credential_id": "token", "certificate_id": 1,
            "model_id": "monitor", "index": 0, "path": "entries/000.p/1", "run_id": "none",
        }  # fmt: skip
        name = self.token if "/tokens/" in template else self.user
        return template.format(**values, name=name)


class RejectsBus(NoBus):
    """A bus that has a reject of each ward's hospital, and nothing else."""

    async def stream_state(self, _stream: str) -> StreamState:
        return StreamState(1, len(WARDS), len(WARDS), 0)

    async def get_message(self, _stream: str, sequence: int) -> StreamMessage | None:
        if not 1 <= sequence <= len(WARDS):
            return None
        reject = Reject(f"r-{sequence}", "wrong-unit", "…", "mqtt", None, WARDS[sequence - 1][0], NOW_US, b"{}")
        return StreamMessage("rejects.mqtt", sequence, msgspec.json.encode(reject), NOW_US)


class Reached:
    """Stands where a handler goes on to once its permission is given: it says so instead."""

    def __getattr__(self, name: str) -> NoReturn:
        raise Conflict("reached")


def reached(*_: Any) -> NoReturn:
    raise Conflict("reached")


def fill(engine: Engine) -> list[Ward]:
    """Make the hospitals; returns their wards in the order of WARDS."""
    for hospital_id, district in DISTRICTS.items():
        places.create_hospital(
            engine, ADA, hospital_id=hospital_id, name=hospital_id, tier=Tier.PRIMARY, bed_count=9, shards=SHARDS,
            district=district,
        )  # fmt: skip
    return list(_wards(engine))


def _sign_in(engine: Engine, user: Row) -> str:
    made = sessions.begin_session(engine, user["id"], checked="stored", address="here", now_us=NOW_US, rules=RULES)
    return made.access_token


def _wards(engine: Engine) -> Iterator[Ward]:
    for number, (hospital_id, ward_id) in enumerate(WARDS, 1):
        places.create_ward(engine, ADA, hospital_id, ward_id, ward_id)
        places.create_bed(engine, ADA, hospital_id, f"bed-{number}", ward_id)
        device, _ = devices.register_device(engine, ADA, hospital_id, NewDevice(f"mon-{number}", "monitor", ward_id))
        patient = patients.admit_patient(engine, ADA, hospital_id, NewPatient(f"MRN-{number}", "王小明", ward_id=ward_id))
        span = patients.associate(engine, ADA, device["handle"], patient["patient_key"], NOW_US)
        presets.set_preset(engine, ADA, patient["patient_key"], "spo2", (None, 90.0, None, None))
        during = {"from_us": NOW_US, "until_us": NOW_US + HOUR_US}
        window = presets.start_maintenance(engine, ADA, hospital_id, handle=device["handle"], **during)
        place = Place.parse(f"{hospital_id}/{ward_id}")
        user = users.create_user(engine, ADA, f"user-{number}", "stored", Grant(Role.NURSE, place))
        access.create_token(engine, ADA, f"token-{number}", Role.STATION, place)
        grant = grants.list_grants(engine, f"user-{number}")[0]["id"]
        session = sessions.session_of(engine, _sign_in(engine, user), now_us=NOW_US, rules=RULES)
        alarms.apply_alarm_events(engine, [(number, AlarmEvent(
            f"e{number}", str(number) * 32, Phase.START, AlertType.PHYSIOLOGICAL, Priority.HIGH, "limit", 1,
            AlarmSubject(hospital_id, ward_id=ward_id, patient_key=patient["patient_key"], handle=device["handle"]),
            NOW_US, NOW_US, NOW_US, "HR 180",
        ))])  # fmt: skip
        key = patient["patient_key"]
        hold = holds.add_hold(engine, ADA, Held.PATIENT, key, None)["id"]
        yield Ward(number, hospital_id, ward_id, key, device["handle"], span["id"], window["id"], grant, session.id, hold)
