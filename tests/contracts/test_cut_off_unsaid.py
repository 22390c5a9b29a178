"""Whatever cuts a device off, besides isolation: never from a patient of whom nobody of the ward is named who knows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, select

from domain.errors import PatientAttached
from runtime.sql import credentials, devices
from runtime.sql.attached import Known
from runtime.sql.engine import reading
from runtime.sql.patients import associate, end_association
from runtime.sql.records import Author
from runtime.sql.tables import write_log
from tests.sql_fixtures import ADA, HOUR_US, NOW_US, SmallHospital, later, with_certificate

pytestmark = [pytest.mark.clause("8.4d"), pytest.mark.clause("9.4")]

Cut = Callable[[Engine, Author, int, Known], object]
NOBODY = Known()


def _needs_certificate(engine: Engine, author: Author, handle: int, known: Known) -> None:
    devices.update_device(engine, author, handle, {"needs_certificate": True}, version=None, known=known)


def _revoke(kind: str) -> Cut:
    def revoke(engine: Engine, author: Author, handle: int, known: Known) -> None:
        (mine,) = [row for row in credentials.credentials_of(engine, handle) if row["kind"] == kind]
        credentials.revoke(engine, author, handle, mine["id"], known)

    return revoke


CUTS: dict[str, Cut] = {
    "a new token": devices.rotate_token,
    "its token is revoked": _revoke("token"),
    "its certificate is revoked": _revoke("certificate"),
    "it needs a certificate": _needs_certificate,
}


def state_of(engine: Engine, handle: int) -> tuple[object, object]:
    with reading(engine) as connection:
        logged = connection.execute(select(write_log.c.action, write_log.c.detail)).all()
    return devices.get_device(engine, handle), logged


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("which", ["pump", "gateway"])
def test_a_worn_device_or_its_gateway_is_cut_off_only_when_a_person_is_named(
    engine: Engine, hospital: SmallHospital, cut: Cut, which: str
) -> None:
    handle, key = getattr(hospital, which)["handle"], hospital.patient["patient_key"]
    on = hospital.pump["handle"] if which == "pump" else hospital.monitor["handle"]  # which the gateway carries
    with_certificate(engine, handle, NOW_US, NOW_US + HOUR_US)
    associate(engine, ADA, on, key, NOW_US)
    before = state_of(engine, handle)
    for known in (NOBODY, Known("li.na"), Known("li.na", frozenset({"another"})), Known(None, frozenset({key}))):
        with pytest.raises(PatientAttached, match=key):
            cut(engine, later(1), handle, known)
    assert state_of(engine, handle) == before
    cut(engine, later(2), handle, Known("li.na", frozenset({key})))
    with reading(engine) as connection:
        detail = connection.execute(select(write_log.c.detail).order_by(write_log.c.id.desc()).limit(1)).scalar_one()
    assert "li.na" in str(detail)


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_device_on_nobody_is_cut_off_as_ever(engine: Engine, hospital: SmallHospital, cut: Cut) -> None:
    pump = hospital.pump["handle"]
    with_certificate(engine, pump, NOW_US, NOW_US + HOUR_US)
    span = associate(engine, ADA, pump, hospital.patient["patient_key"], NOW_US)
    end_association(engine, later(5), span["id"], NOW_US + 5_000_000)
    cut(engine, later(6), pump, NOBODY)


def test_what_cuts_nobody_off_asks_for_nobody(engine: Engine, hospital: SmallHospital) -> None:
    """A first token, a claim code that is revoked, another place, a certificate that was needed already."""
    monitor, pump, key = hospital.monitor["handle"], hospital.pump["handle"], hospital.patient["patient_key"]
    devices.update_device(engine, ADA, pump, {"needs_certificate": True}, version=None)
    for handle in (monitor, pump):
        associate(engine, ADA, handle, key, NOW_US)
    devices.rotate_token(engine, later(1), monitor)
    devices.update_device(engine, later(1), pump, {"needs_certificate": True, "bed_id": "icu-08"}, version=None)


def test_a_device_is_retired_only_once_nobody_is_on_it_any_more(engine: Engine, hospital: SmallHospital) -> None:
    """Retired it would be on nobody, and nothing would say that its patient is not monitored any more."""
    pump, key = hospital.pump["handle"], hospital.patient["patient_key"]
    span = associate(engine, ADA, pump, key, NOW_US)
    for known in (NOBODY, Known("li.na", frozenset({key}))):
        with pytest.raises(PatientAttached, match="end the association first"):
            devices.retire_device(engine, later(1), pump, version=None, known=known)
    assert devices.get_device(engine, pump)["status"] == "in-use"
    end_association(engine, later(5), span["id"], NOW_US + 5_000_000)
    devices.retire_device(engine, later(6), pump, version=None)


def test_a_gateway_is_retired_with_a_person_who_knows_of_those_behind_it(engine: Engine, hospital: SmallHospital) -> None:
    gateway, key = hospital.gateway["handle"], hospital.patient["patient_key"]
    associate(engine, ADA, hospital.monitor["handle"], key, NOW_US)
    with pytest.raises(PatientAttached, match=key):
        devices.retire_device(engine, later(1), gateway, version=None)
    retired = devices.retire_device(engine, later(2), gateway, version=None, known=Known("li.na", frozenset({key})))
    assert retired["status"] == "retired"
