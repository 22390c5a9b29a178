"""What every write of the business store promises, on both databases: who did it and why, hosts told in the same
transaction or not at all, tokens that end, and fleets registered whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection, Engine, event, func, select

from domain.alarms import AlarmEvent, AlarmSubject, AlertType, Outcome, Phase, Priority
from domain.errors import Conflict, InvalidInput, NotFound, Unauthenticated, VitalgridError
from domain.fleet_manifest import DeviceColumns, FleetManifest, FleetRegistered, HospitalManifest, PatientColumns, Tier
from domain.instants import from_us
from domain.messages import DeviceAssociated, DevicesRegistered, PatientAdmitted
from domain.principals import Grant, Place, Role
from runtime.certificates import Authority
from runtime.device_authority import DeviceAuthority, Request, Signer, read_request
from runtime.second_factors import Shown
from runtime.sql import (
    access,
    alarms,
    credentials,
    devices,
    grants,
    isolations,
    patients,
    places,
    presets,
    second_factors,
    sessions,
    users,
    watching,
)
from runtime.sql.credential_tables import claim_codes, device_certificates
from runtime.sql.devices import NewDevice
from runtime.sql.engine import reading, writing
from runtime.sql.fleets import register_fleet
from runtime.sql.isolation_tables import isolations as isolation_table
from runtime.sql.lockout import LockRule
from runtime.sql.patients import NewPatient, associate, correct_association, end_association, list_associations
from runtime.sql.records import Author
from runtime.sql.sessions import SessionRules
from runtime.sql.tables import alarm_events, associations, beds, handles, hospitals, outbox, tokens, wards, write_log
from runtime.sql.tables import alarms as alarm_table
from runtime.sql.tables import devices as device_table
from runtime.sql.tables import patients as patient_table
from tests.sql_fixtures import ADA, ALL, HOSPITAL, HOUR_US, NOW_US, SHARDS, add_hospital, count, later, told

OTHER = "sz.h002"
KEPT = (
    alarm_events, alarm_table, associations, beds, claim_codes, device_certificates, device_table, handles, hospitals,
    isolation_table, outbox, patient_table,
    tokens, wards, write_log,
)  # fmt: skip


def everything(engine: Engine) -> dict[str, int]:
    """How many rows each table has."""
    return {table.name: count(engine, table) for table in KEPT}


# --- access ---


@pytest.mark.clause("9.3b")
def test_the_first_administrator_is_made_once(engine: Engine) -> None:
    token = access.create_first_token(engine, Role.ADMINISTRATOR, now_us=NOW_US)
    assert token is not None
    assert access.create_first_token(engine, Role.ADMINISTRATOR, now_us=NOW_US) is None
    holder = access.authenticate(engine, token)
    assert (holder["name"], holder["role"]) == ("admin", Role.ADMINISTRATOR)
    with pytest.raises(Unauthenticated):
        access.authenticate(engine, token + "x")
    with reading(engine) as connection:
        assert token not in str(connection.execute(select(tokens)).all())


@pytest.mark.clause("9.3b")
def test_a_revoked_token_opens_nothing_and_the_others_stay(engine: Engine) -> None:
    bob, eve = access.create_token(engine, ADA, "bob"), access.create_token(engine, ADA, "eve")
    with pytest.raises(Conflict, match="bob"):
        access.create_token(engine, ADA, "bob")
    access.revoke_token(engine, later(5), "bob")
    with pytest.raises(Unauthenticated):
        access.authenticate(engine, bob)
    assert access.authenticate(engine, eve)["name"] == "eve"
    with pytest.raises(NotFound):
        access.revoke_token(engine, ADA, "mallory")


Write = Callable[[Engine, Author, "Cast"], object]


RULES = credentials.EnrolmentRules(HOUR_US, 24 * HOUR_US, HOUR_US)


def _in_one(engine: Engine, write: Callable[[Connection], object]) -> None:
    with writing(engine) as connection:
        write(connection)


@cache
def _signer() -> Signer:
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder))
        authority.make_missing("sz devices", from_us(NOW_US))
        return DeviceAuthority(authority).signer()


@cache
def _request() -> Request:
    key = ec.generate_private_key(ec.SECP256R1())
    asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    return read_request(asked.public_bytes(Encoding.DER))


class Cast:
    """Whom and what writes are about: made once, so that each write below is possible."""

    def __init__(self, engine: Engine) -> None:
        add_hospital(engine)
        places.create_ward(engine, ADA, HOSPITAL, "icu", "ICU")
        self.free, self.worn = (
            devices.register_device(engine, ADA, HOSPITAL, NewDevice(name, "monitor"))[0]["handle"] for name in ("m-1", "m-2")
        )
        self.signer, self.request = _signer(), _request()
        _in_one(engine, lambda connection: credentials.give_certificate(connection, ADA, self.free, self.signer, RULES))
        (self.certificate,) = (row["id"] for row in credentials.credentials_of(engine, self.free))
        self.patient = patients.admit_patient(engine, ADA, HOSPITAL, NewPatient("MRN-1"))["patient_key"]
        self.span = associate(engine, ADA, self.worn, self.patient, NOW_US)["id"]
        presets.set_preset(engine, ADA, self.patient, "spo2", (None, 90.0, None, None))
        during = {"from_us": NOW_US, "until_us": NOW_US + 24 * HOUR_US}
        self.window = presets.start_maintenance(engine, ADA, HOSPITAL, ward_id="icu", **during)["id"]
        access.create_token(engine, ADA, "eve", Role.STATION)
        users.create_user(engine, ADA, "li.na", "stored", Grant(Role.NURSE, Place.parse(f"{HOSPITAL}/icu")))
        self.grant = grants.list_grants(engine, "li.na")[0]["id"]
        grants.join_team(engine, ADA, self.patient, "li.na", None)
        self.isolated = devices.register_device(engine, ADA, HOSPITAL, NewDevice("m-3", "monitor"))[0]["handle"]
        isolations.isolate(engine, ADA, self.isolated)
        users.create_user(engine, ADA, "wang.wei", "stored")
        self.nurse, self.nurses_session = self._sign_in(engine, "li.na")  # whose second factor is proposed
        self.other, self.others_session = self._sign_in(engine, "wang.wei")  # whose is confirmed
        for user_id in (self.nurse, self.other):
            second_factors.propose(engine, ADA, user_id, b"sealed")
        self.confirm(engine, ADA, self.other, self.others_session)
        alarms.apply_alarm_events(engine, [(1, AlarmEvent(
            "e" * 32, "a" * 32, Phase.START, AlertType.PHYSIOLOGICAL, Priority.HIGH, "limit", 1,
            AlarmSubject(HOSPITAL, handle=self.worn), NOW_US, NOW_US, NOW_US, "HR 180",
        ))])  # fmt: skip

    @staticmethod
    def _sign_in(engine: Engine, name: str) -> tuple[str, str]:
        user_id, rules = users.get_user(engine, name, now_us=NOW_US)["id"], SessionRules(HOUR_US, HOUR_US)
        made = sessions.begin_session(engine, user_id, checked="stored", address="here", now_us=NOW_US, rules=rules)
        return user_id, sessions.session_of(engine, made.access_token, now_us=NOW_US, rules=rules).id

    @staticmethod
    def confirm(engine: Engine, author: Author, user_id: str, session_id: str) -> None:
        second_factors.confirm(engine, author, user_id, session_id, seed=b"sealed", step=1, recovery=[f"code of {user_id}"])


def _fleet(hospital_id: str = OTHER, **more: Any) -> FleetManifest:
    columns = DeviceColumns(
        ["gw-1", "mon-1"], ["gateway", "monitor"], ["icu"] * 2, [None, "icu-1"], [None, "gw-1"], [True, False]
    )
    people = PatientColumns(["R-1"], [None], [70.0], [False], [1], ["icu"], ["icu-1"], [NOW_US], [["mon-1"]])
    given = {"devices": columns, "patients": people} | more
    return FleetManifest([HospitalManifest(hospital_id, "二院", Tier.SECONDARY, 100, **given)])


WRITES: dict[str, Write] = {
    "hospital": lambda e, a, _: places.create_hospital(
        e, a, hospital_id="sz.h009", name="九院", tier=Tier.PRIMARY, bed_count=9, shards=SHARDS
    ),
    "hospital change": lambda e, a, _: places.update_hospital(e, a, HOSPITAL, {"name": "新"}, version=1),
    "ward": lambda e, a, _: places.create_ward(e, a, HOSPITAL, "er", "ER"),
    "ward change": lambda e, a, _: places.update_ward(e, a, HOSPITAL, "icu", "新", version=None),
    "bed": lambda e, a, _: places.create_bed(e, a, HOSPITAL, "icu-01", "icu"),
    "device": lambda e, a, _: devices.register_device(e, a, HOSPITAL, NewDevice("m-9", "monitor")),
    "import": lambda e, a, _: devices.import_devices(e, a, HOSPITAL, [NewDevice("m-9", "monitor")]),
    "device move": lambda e, a, c: devices.move_device(e, a, c.free, ward_id="icu", bed_id=None, version=None),
    "device token": lambda e, a, c: devices.rotate_token(e, a, c.free),
    "device tokens": lambda e, a, c: devices.rotate_tokens(e, a, HOSPITAL, ["m-1", "m-3"]),
    "claim code": lambda e, a, c: _in_one(e, lambda connection: credentials.make_claim_code(connection, a, c.free, RULES)),
    "certificate": lambda e, a, c: _in_one(
        e, lambda connection: credentials.give_certificate(connection, a, c.free, c.signer, RULES)
    ),
    "credential end": lambda e, a, c: credentials.revoke(e, a, c.free, c.certificate),
    "device end": lambda e, a, c: devices.retire_device(e, a, c.free, version=None),
    "isolation": lambda e, a, c: isolations.isolate(e, a, c.worn, confirmed_by="li.na", known=[c.patient], revoke=True),
    "isolation end": lambda e, a, c: isolations.release(e, a, c.isolated),
    "patient": lambda e, a, _: patients.admit_patient(e, a, HOSPITAL, NewPatient("MRN-9")),
    "patient change": lambda e, a, c: patients.update_patient(e, a, c.patient, {"age_years": 5.0}, version=None),
    "discharge": lambda e, a, c: patients.discharge_patient(e, a, c.patient, a.now_us, version=None),
    "association": lambda e, a, c: associate(e, a, c.free, c.patient, NOW_US),
    "association end": lambda e, a, c: end_association(e, a, c.span, NOW_US + HOUR_US),
    "correction": lambda e, a, c: correct_association(e, a, c.span, start_us=NOW_US - HOUR_US),
    "preset": lambda e, a, c: presets.set_preset(e, a, c.patient, "heart_rate", (None, 50.0, 120.0, None)),
    "preset end": lambda e, a, c: presets.remove_preset(e, a, c.patient, "spo2"),
    "maintenance": lambda e, a, c: presets.start_maintenance(
        e, a, HOSPITAL, handle=c.free, from_us=NOW_US, until_us=NOW_US + HOUR_US
    ),
    "maintenance end": lambda e, a, c: presets.end_maintenance(e, a, c.window),
    "acknowledgement": lambda e, a, _: alarms.acknowledge(e, a, "a" * 32, Outcome.ACTIONABLE),
    "pause": lambda e, a, _: alarms.pause_audio(e, a, "a" * 32, a.now_us + 60_000_000),
    "token": lambda e, a, _: access.create_token(e, a, "bob"),
    "token end": lambda e, a, _: access.revoke_token(e, a, "eve"),
    "user": lambda e, a, _: users.create_user(e, a, "grete", "stored"),
    "password": lambda e, a, _: users.set_password(e, a, "li.na", "another", must_change=False),
    "user disabled": lambda e, a, _: users.disable_user(e, a, "li.na"),
    "user enabled": lambda e, a, _: users.enable_user(e, a, "li.na"),
    "grant": lambda e, a, _: grants.give(e, a, "li.na", Grant(Role.DOCTOR, Place.parse(HOSPITAL))),
    "grant end": lambda e, a, c: grants.take_back(e, a, "li.na", c.grant),
    "care team": lambda e, a, c: grants.join_team(e, a, c.patient, "wang.wei", None),
    "care team end": lambda e, a, c: grants.leave_team(e, a, c.patient, "li.na"),
    "user unlocked": lambda e, a, _: users.unlock_user(e, a, "li.na"),
    "second factor": lambda e, a, c: second_factors.propose(e, a, c.nurse, b"another"),
    "second factor confirmed": lambda e, a, c: c.confirm(e, a, c.nurse, c.nurses_session),
    "second factor removed": lambda e, a, c: second_factors.remove(e, a, c.other, Shown(step=2), LockRule(5, HOUR_US)),
    "second factor reset": lambda e, a, _: second_factors.reset(e, a, "wang.wei"),
    "session ended": lambda e, a, c: watching.end_by_order(e, a, c.others_session),
    "resubmission": lambda e, a, _: access.record_resubmission(e, a, "reject-1", "3-77"),
    "fleet": lambda e, a, _: register_fleet(e, a, _fleet(), shards=SHARDS),
}


@pytest.mark.clause("9.3e")
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_every_write_is_logged_with_who_when_and_why(engine: Engine, write: Write) -> None:
    cast = Cast(engine)
    author = Author("grace", "because of a test", NOW_US + 60_000_000)
    write(engine, author, cast)
    logged = access.list_writes(engine, limit=50, who="grace").rows
    assert logged
    assert {(row["who"], row["reason"], row["at_us"]) for row in logged} == {(author.who, author.reason, author.now_us)}
    assert all(row["action"] and row["target"] for row in logged)


DEVICES_OWN: dict[str, Callable[[Engine, Cast, str, int], object]] = {
    "claim": lambda e, c, code, now_us: credentials.claim(e, code, c.request, c.signer, now_us, RULES),
    "claim of a token": lambda e, _, code, now_us: credentials.claim(e, code, None, None, now_us, RULES),
    "renewal": lambda e, c, _, now_us: credentials.renew(
        e, c.free, (devices.get_device(e, c.free)["token_digest"],), c.request, c.signer, now_us, RULES
    ),
}


@pytest.mark.clause("9.3e")
@pytest.mark.parametrize("write", DEVICES_OWN.values(), ids=DEVICES_OWN.keys())
def test_what_a_device_gets_by_itself_is_logged_as_its_own_or_not_given(
    engine: Engine, write: Callable[[Engine, Cast, str, int], object]
) -> None:
    cast = Cast(engine)
    with writing(engine) as connection:
        code, _ = credentials.make_claim_code(connection, ADA, cast.free, RULES)
        devices.replace_token(connection, ADA, cast.free)
    before = everything(engine), devices.get_device(engine, cast.free)
    with _no_log(engine), pytest.raises(RuntimeError, match="disk is full"):
        write(engine, cast, code, NOW_US + 1)
    assert (everything(engine), devices.get_device(engine, cast.free)) == before
    write(engine, cast, code, NOW_US + 1)
    assert access.list_writes(engine, limit=50, who=f"{HOSPITAL}/m-1").rows


@contextmanager
def _no_log(engine: Engine) -> Iterator[None]:
    """While the log takes nothing."""

    def refuse(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO write_log"):
            raise RuntimeError("the disk is full")

    event.listen(engine, "before_cursor_execute", refuse)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", refuse)


@pytest.mark.clause("9.3e")
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_a_write_whose_log_fails_leaves_nothing_at_all(engine: Engine, write: Write) -> None:
    """No change without its line in the log, and nothing told to hosts of a change that is not there."""
    cast = Cast(engine)
    before = everything(engine)
    with _no_log(engine), pytest.raises(RuntimeError, match="disk is full"):
        write(engine, later(60), cast)
    assert everything(engine) == before
    assert alarms.get_alarm(engine, "a" * 32)["state"] == "active"


@pytest.mark.clause("9.3e")
def test_the_log_is_read_newest_first_page_by_page(engine: Engine) -> None:
    for n in range(5):
        access.create_token(engine, later(n), f"t-{n}")
    seen: list[str] = []
    after = None
    while True:
        page = access.list_writes(engine, limit=2, after=after)
        seen += [row["target"] for row in page.rows]
        if (after := page.after) is None:
            break
    assert seen == [f"t-{n}" for n in (4, 3, 2, 1, 0)]
    assert access.list_writes(engine, limit=5, who="nobody").rows == []


def test_a_reject_is_resubmitted_once(engine: Engine) -> None:
    access.record_resubmission(engine, ADA, "reject-1", "3-77")
    with pytest.raises(Conflict, match="3-77"):
        access.record_resubmission(engine, ADA, "reject-1", "3-78")
    assert list(access.resubmissions(engine, ["reject-1", "reject-2"])) == ["reject-1"]


# --- fleets ---


@pytest.mark.clause("5.1", "8.1")
def test_a_fleet_registered_again_keeps_its_handles_and_keys(engine: Engine) -> None:
    first = register_fleet(engine, ADA, _fleet(), shards=SHARDS)
    before = {name: n for name, n in everything(engine).items() if name != "write_log"}
    meant = FleetManifest(_fleet().hospitals, even_on_patients=True)
    again = register_fleet(engine, later(60), meant, shards=SHARDS)
    after = {name: n for name, n in everything(engine).items() if name != "write_log"}
    assert after == before
    assert [_without_tokens(fleet) for fleet in (first, again)] == 2 * [_without_tokens(first)]
    old, new = (fleet.hospitals[0].tokens["gw-1"] for fleet in (first, again))
    assert devices.device_of_token(engine, old) is None
    found = devices.device_of_token(engine, new)
    assert found is not None
    assert found["handle"] == first.hospitals[0].handles[0]


def test_a_fleet_tells_hosts_devices_before_patients_before_who_wears_what(engine: Engine) -> None:
    made = register_fleet(engine, ADA, _fleet(), shards=SHARDS).hospitals[0]
    messages = told(engine)
    assert [type(message) for message in messages] == [DevicesRegistered, PatientAdmitted, DeviceAssociated]
    worn = messages[-1]
    assert isinstance(worn, DeviceAssociated)
    assert (worn.handle, worn.spans[0].patient_handle) == (made.handles[1], made.patient_handles[0])
    with reading(engine) as connection:
        assert set(connection.execute(select(outbox.c.subject)).scalars()) == {f"control.{made.shard}"}
    assert devices.get_device(engine, made.handles[1])["gateway_handle"] == made.handles[0]


def _columns(**changed: Any) -> dict[str, Any]:
    good = _fleet().hospitals[0].devices
    return {"devices": msgspec.structs.replace(good, **changed)}


def _people(**changed: Any) -> dict[str, Any]:
    good = _fleet().hospitals[0].patients
    return {"patients": msgspec.structs.replace(good, **changed)}


WRONG = {
    "unequal columns of devices": _columns(models=["gateway"]),
    "unequal columns of patients": _people(names=[]),
    "an unknown model": _columns(models=["gateway", "toaster"]),
    "a device named twice": _columns(device_ids=["mon-1", "mon-1"]),
    "an unknown gateway": _columns(gateway_ids=[None, "gw-9"]),
    "a patient's device that does not exist": _people(device_ids=[["mon-9"]]),
    "a device on a patient twice": _people(device_ids=[["mon-1", "mon-1"]]),
    "an impossible age": _people(ages_years=[-3.0]),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_fleet_is_registered_whole_or_not_at_all(engine: Engine, wrong: dict[str, Any]) -> None:
    before = everything(engine)
    good = _fleet("sz.h001").hospitals
    with pytest.raises(VitalgridError) as refused:
        register_fleet(engine, ADA, FleetManifest([*good, *_fleet(**wrong).hospitals]), shards=SHARDS)
    assert isinstance(refused.value, InvalidInput | NotFound | Conflict)
    assert everything(engine) == before


def test_a_device_that_is_known_by_another_model_refuses_the_fleet(engine: Engine) -> None:
    register_fleet(engine, ADA, _fleet(), shards=SHARDS)
    other = _fleet(**_columns(models=["gateway", "wearable"])).hospitals
    with pytest.raises(Conflict, match="'mon-1' exists as a monitor"):
        register_fleet(engine, ADA, FleetManifest(other, even_on_patients=True), shards=SHARDS)


@pytest.mark.clause("6.1")
def test_a_fleet_that_puts_a_used_device_on_a_new_patient_keeps_the_earlier_one_known(engine: Engine) -> None:
    """Hosts replace all they know of a device by what they are told: readings that come late belong to the earlier patient."""
    first = register_fleet(engine, ADA, _fleet(), shards=SHARDS).hospitals[0]
    span = list_associations(engine, reach=ALL, handle=first.handles[1])[0]
    end_association(engine, later(3600), span["id"], NOW_US + HOUR_US)
    newcomer = _people(refs=["R-2"], admitted_us=[NOW_US + 2 * HOUR_US])
    second = register_fleet(engine, later(7200), _fleet(**newcomer), shards=SHARDS).hospitals[0]
    message = told(engine, DeviceAssociated)[-1]
    assert isinstance(message, DeviceAssociated)
    assert [span.patient_handle for span in message.spans] == [first.patient_handles[0], second.patient_handles[0]]


@pytest.mark.clause("6.1")
def test_a_fleet_cannot_put_a_device_on_two_patients_at_a_time(engine: Engine) -> None:
    first = register_fleet(engine, ADA, _fleet(), shards=SHARDS).hospitals[0]
    span = list_associations(engine, reach=ALL, handle=first.handles[1])[0]
    end_association(engine, later(3600), span["id"], NOW_US + HOUR_US)
    before = everything(engine)
    with pytest.raises(Conflict):
        register_fleet(engine, later(60), _fleet(**_people(refs=["R-2"], admitted_us=[NOW_US + 1])), shards=SHARDS)
    assert everything(engine) == before


def test_handles_of_fleets_run_on_and_are_never_used_again(engine: Engine) -> None:
    made = [register_fleet(engine, ADA, _fleet(f"sz.h{n:03}"), shards=SHARDS).hospitals[0] for n in range(3)]
    given = [handle for hospital in made for handle in (*hospital.handles, *hospital.patient_handles)]
    assert given == sorted(set(given))
    with reading(engine) as connection:
        highest = connection.execute(select(func.max(handles.c.handle))).scalar_one()
    later_one, _ = devices.register_device(engine, replace(ADA, who="bob"), "sz.h000", NewDevice("mon-2", "monitor"))
    assert later_one["handle"] > highest


def _without_tokens(fleet: FleetRegistered) -> list[Any]:
    return [(h.hospital_id, h.shard, h.handles, h.patient_keys, h.patient_handles) for h in fleet.hospitals]
