"""What doors saw of devices, on both databases: kept in any order, and news when a fingerprint changes. Clause 8.4a."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from sqlalchemy import Engine, select

from domain.sightings import Sighting, client_words, fingerprint_of, parts_of, software_words
from gateways.sightings import Sightings
from runtime.clock import ManualClock
from runtime.sql import isolations
from runtime.sql.credential_tables import credential_uses
from runtime.sql.credentials import credentials_of, revoke
from runtime.sql.devices import retire_device, rotate_token, update_device
from runtime.sql.engine import reading
from runtime.sql.inventory import inventory
from runtime.sql.sightings import keep_sightings, sighting_of
from runtime.tokens import token_digest
from tests.doors import MONITOR
from tests.sql_fixtures import ADA, NOW_US, SmallHospital, with_certificate

pytestmark = pytest.mark.clause("8.4a")


@dataclass(frozen=True)
class Seen:
    engine: Engine
    handle: int

    def comes(self, at_s: int, door: str = "mqtt", address: str = "10.0.0.7", client: str = "pump") -> bool:
        """Whether that is news."""
        one = Sighting(self.handle, door, address, door == "mqtt", client, NOW_US + at_s * 1_000_000)
        return bool(keep_sightings(self.engine, [one]))


@pytest.fixture
def pump(engine: Engine, hospital: SmallHospital) -> Seen:
    return Seen(engine, hospital.pump["handle"])


def test_the_same_again_is_no_news_nor_is_another_address_or_client_id(pump: Seen) -> None:
    assert not pump.comes(0)
    assert not pump.comes(1)
    assert not pump.comes(2, address="10.0.0.8", client="pump-4711")
    row = sighting_of(pump.engine, pump.handle)
    assert row is not None
    assert (row["address"], row["changes"], row["last_us"] - row["first_us"]) == ("10.0.0.8", 0, 2_000_000)


def test_another_door_and_another_firmware_are_news_that_say_what_changed(pump: Seen) -> None:
    pump.comes(0)
    assert pump.comes(1, door="http", client="curl/8")
    row = sighting_of(pump.engine, pump.handle)
    assert row is not None
    changed = {name: (row["parts_before"][name], value) for name, value in row["parts"].items()}
    assert {name: pair for name, pair in changed.items() if pair[0] != pair[1]} == {
        "door": ("mqtt", "http"), "link": ("tls", "plain"), "software": ("", "curl/8"),
    }  # fmt: skip
    update_device(pump.engine, ADA, pump.handle, {"attributes": {"firmware": "2.1"}}, version=None)
    assert pump.comes(2, door="http", client="curl/8")
    row = sighting_of(pump.engine, pump.handle)
    assert row is not None
    assert (row["changes"], row["changed_us"], row["parts"]["firmware"]) == (2, NOW_US + 2_000_000, "2.1")


def test_an_older_sighting_that_comes_late_changes_nothing_and_unknown_devices_are_passed_over(pump: Seen) -> None:
    pump.comes(9)
    assert not pump.comes(3, door="http")
    assert keep_sightings(pump.engine, [Sighting(999_999, "mqtt", "::1", True, "", NOW_US)]) == []
    row = sighting_of(pump.engine, pump.handle)
    assert row is not None
    assert row["door"] == "mqtt"


def test_two_who_take_turns_with_one_credential_change_it_each_time(pump: Seen) -> None:
    assert [pump.comes(at, door=("mqtt", "http")[at % 2]) for at in range(4)] == [False, True, True, True]


def test_doors_tell_news_at_once_and_the_same_once_an_hour_and_keep_what_was_not_taken() -> None:
    clock = ManualClock(NOW_US)
    sightings = Sightings(clock)

    def comes(client: str = "a") -> None:
        sightings.note(MONITOR, "mqtt", "::1", client, over_tls=True)

    comes()
    (first,) = sightings.take(10)
    comes()
    assert sightings.take(10) == []
    sightings.again([first])
    comes("b")
    assert [one.client for one in sightings.take(10)] == ["b"]
    clock.advance(3_600)
    comes("b")
    assert len(sightings.take(10)) == 1
    sightings.note(replace(MONITOR, credentials=("sha256:f",)), "mqtt", "::1", "b", over_tls=True)
    assert [(one.credential, one.credentials) for one in sightings.take(10)] == [("certificate", ("sha256:f",))]


def test_two_programs_that_come_by_turns_as_one_device_are_told_once_an_hour_not_at_each_turn() -> None:
    clock = ManualClock(NOW_US)
    sightings, told = Sightings(clock), list[str]()
    for _ in range(10):
        for client in ("a", "b"):
            sightings.note(MONITOR, "http", "::1", client, over_tls=True)
            told += [one.client for one in sightings.take(10)]
    assert told == ["a", "b"]
    clock.advance(3_600)
    for client in "ab":
        sightings.note(MONITOR, "http", "::1", client, over_tls=True)
    assert [one.client for one in sightings.take(10)] == ["b"]
    sightings.note(MONITOR, "http", "::1", "a", over_tls=True)
    assert [one.client for one in sightings.take(10)] == ["a"]


def test_doors_keep_no_more_of_what_a_device_says_than_is_told_however_often_it_says_something_else() -> None:
    sightings = Sightings(ManualClock(NOW_US))
    for number in range(100):
        sightings.note(MONITOR, "http", "::1", f"{number}" + "\x00" * 60_000, over_tls=True)
        (one,) = sightings.take(10)
        assert len(one.client) == 120
    assert [len(client) for ways in sightings._told.values() for _, _, client, _ in ways] == [120] * 8


def test_when_each_credential_was_used_last_is_kept_and_what_kind_it_showed(pump: Seen) -> None:
    def comes(at_s: int, *credentials: str) -> bool:
        one = Sighting(pump.handle, "mqtt", "10.0.0.7", True, "pump", NOW_US + at_s * 1_000_000, credentials)
        return bool(keep_sightings(pump.engine, [one]))

    def used() -> dict[str, int | None]:
        rows = credentials_of(pump.engine, pump.handle)
        return {row["kind"]: row["last_used_us"] and (row["last_used_us"] - NOW_US) // 1_000_000 for row in rows}

    token = rotate_token(pump.engine, ADA, pump.handle)
    certificate = f"sha256:{'a' * 64}"
    assert used() == {"token": None}
    comes(10, token_digest(token))
    assert comes(20, certificate, token_digest(token))
    assert comes(30, certificate)
    comes(15, token_digest(token))  # late
    assert used() == {"token": 20}
    row = sighting_of(pump.engine, pump.handle)
    assert row is not None
    assert (row["credential"], row["parts_before"]["credential"]) == ("certificate", "both")
    rotate_token(pump.engine, ADA, pump.handle)
    assert used() == {"token": None}
    with reading(pump.engine) as connection:
        assert connection.execute(select(credential_uses.c.credential)).scalars().all() == [certificate]


@pytest.mark.clause("9.3h")
def test_where_what_is_kept_is_sealed_a_device_has_no_words_of_its_own() -> None:
    agent = "Cuff/2.1 (ward 3, Ouyang Kanali) 440305199001011234 python-requests/2.31.0 x/440305199001011234 Li.Na/1.0 Li.Na"
    assert software_words("http", agent) == "Cuff/2.1 python-requests/2.31.0"
    assert software_words("http", "Ouyang Kanali") == software_words("mqtt", "Ouyang.Kanali/1.0") == ""
    sightings = Sightings(ManualClock(NOW_US), keeps_words=False)
    sightings.note(MONITOR, "mqtt", "10.0.0.7", "Ouyang Kanali", over_tls=True)
    sightings.note(MONITOR, "http", "10.0.0.7", agent, over_tls=True)
    assert [one.client for one in sightings.take(9)] == ["", "Cuff/2.1 python-requests/2.31.0"]


def test_what_a_device_calls_itself_is_kept_short_and_printable() -> None:
    words = client_words("a\x00\n\x1b[31m" + "x" * 500)
    assert words.isprintable()
    assert len(words) == 120
    assert client_words("=cmd()" + "x" * 500)[:5] == "'=cmd"
    assert client_words("") == ""


def test_a_fingerprint_is_of_its_parts_in_any_order() -> None:
    parts = parts_of(Sighting(1, "http", "::1", True, "ua", 1), "monitor@1", {"serial_number": 7})
    assert parts["serial"] == "7"
    assert fingerprint_of(parts) == fingerprint_of(dict(reversed(parts.items())))


def test_the_inventory_has_each_device_in_service_once_with_what_is_known_of_it(pump: Seen, hospital: SmallHospital) -> None:
    engine = pump.engine
    pump.comes(3)
    update_device(
        engine, ADA, pump.handle, {"attributes": {"serial": "S1", "firmware": 2.5, "manufacturer": "M"}}, version=None
    )
    isolations.isolate(engine, ADA, pump.handle)
    retire_device(engine, ADA, hospital.monitor["handle"], version=None)
    rows = {row["device_id"]: row for row in inventory(engine, NOW_US).iter_rows(named=True)}
    assert set(rows) == {"gw-1", "pump-3"}
    known = ("serial", "firmware", "maker", "is_isolated", "seen_us", "over_tls", "has_token", "issued_us", "is_default")
    assert [rows["pump-3"][name] for name in known] == [
        "S1", "2.5", "M", True, NOW_US + 3_000_000, True, True, NOW_US, False,
    ]  # fmt: skip
    assert [rows["gw-1"][name] for name in known[:5]] == [None, None, None, False, None]
    (alone,) = inventory(engine, NOW_US, pump.handle).iter_rows(named=True)
    assert alone == rows["pump-3"]


def test_the_inventory_knows_tokens_and_certificates_and_the_age_of_what_a_device_comes_with(
    pump: Seen, hospital: SmallHospital
) -> None:
    engine, gateway, day_us = pump.engine, hospital.gateway["handle"], 86_400_000_000
    rotate_token(engine, ADA, pump.handle)
    revoke(engine, ADA, gateway, "token")
    with_certificate(engine, gateway, NOW_US - 9 * day_us, NOW_US + day_us)
    with_certificate(engine, gateway, NOW_US - 7 * day_us, NOW_US + 5 * day_us)
    with_certificate(engine, gateway, NOW_US - 5 * day_us, NOW_US + 9 * day_us, is_revoked=True)
    with_certificate(engine, gateway, NOW_US - 4 * day_us, NOW_US)
    with_certificate(engine, pump.handle, NOW_US - 3 * day_us, NOW_US + day_us)

    def known(device_id: str) -> tuple[object, ...]:
        row = next(row for row in inventory(engine, NOW_US).iter_rows(named=True) if row["device_id"] == device_id)
        return tuple(row[name] for name in ("has_token", "has_certificate", "certificate_until_us", "issued_us"))

    assert known("mon-7") == (False, False, None, None)
    assert known("gw-1") == (False, True, NOW_US + 5 * day_us, NOW_US - 7 * day_us)
    assert known("pump-3") == (True, True, NOW_US + day_us, NOW_US)  # it never came: the younger
    certificate, token = "sha256:certificate", "sm3:token"
    for number, (shown, issued_us) in enumerate(
        (((certificate,), NOW_US - 3 * day_us), ((token,), NOW_US), ((certificate, token), NOW_US)), start=1
    ):
        keep_sightings(engine, [Sighting(pump.handle, "mqtt", "10.0.0.7", True, "pump", NOW_US + number, shown)])
        assert known("pump-3")[3] == issued_us, shown
    revoke(engine, ADA, pump.handle, "token")
    keep_sightings(engine, [Sighting(pump.handle, "mqtt", "10.0.0.7", True, "pump", NOW_US + 9, (token,))])
    assert known("pump-3")[3] == NOW_US - 3 * day_us  # what it came with is good no more
