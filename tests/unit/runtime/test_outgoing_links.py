"""What the platform opens itself: plain within this machine in profile `dev`, and TLS with a verified peer everywhere else."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from domain.signed_notes import COSIGNATURE, PublicKey
from runtime.outgoing_links import plain_links
from runtime.security_profile import SecurityProfile
from runtime.settings import Settings

pytestmark = pytest.mark.clause("9.1a")

VKEY = PublicKey("sz.h001/witness", COSIGNATURE, bytes(32)).vkey
DEV, STANDARD, CN = SecurityProfile


def address(profile: SecurityProfile, url: str) -> list[str]:
    return plain_links(profile, {"webhook.url": url}, {})


def database(profile: SecurityProfile, url: str) -> list[str]:
    return plain_links(profile, {}, {"database_url": url})


@pytest.mark.parametrize("profile", [STANDARD, CN])
@pytest.mark.parametrize("url", ["http://his.example/a", "http://127.0.0.1:9/a", "ftp://his.example", "his.example", "https://",
                                 "http://[x"])  # fmt: skip
def test_an_address_without_tls_is_refused_on_this_machine_too(profile: SecurityProfile, url: str) -> None:
    (problem,) = address(profile, url)
    assert problem.startswith("webhook.url is ")
    assert "https://" in problem


@pytest.mark.parametrize(("url", "is_plain"), [
    ("http://127.0.0.1:9/a", False), ("http://localhost/a", False), ("http://[::1]:9/a", False), ("https://his.example", False),
    ("http://his.example/a", True), ("http://10.0.0.1/a", True), ("http://127.0.0.1.example/a", True),
    ("http://localhost@his.example/a", True),
])  # fmt: skip
def test_in_dev_plain_stays_on_this_machine(url: str, is_plain: bool) -> None:
    assert bool(address(DEV, url)) is is_plain


@pytest.mark.parametrize("profile", [DEV, STANDARD, CN])
@pytest.mark.parametrize("url", [
    "postgresql://u:p@db/v?sslmode=verify-full", "postgresql+psycopg://u@127.0.0.1/v?sslmode=verify-full",
    "postgresql://u@db/v?sslmode=verify-full&sslrootcert=/etc/ca.pem&ssl_min_protocol_version=TLSv1.3",
    "postgresql://u@/v?host=/run/postgresql", "postgresql:///v?host=/run/a&host=/run/b", "sqlite:////var/lib/v.db",
])  # fmt: skip
def test_a_verified_database_a_socket_and_a_file_are_taken(profile: SecurityProfile, url: str) -> None:
    assert database(profile, url) == []


@pytest.mark.parametrize(("url", "named"), [
    ("postgresql://u:s3cret@db/v", ["PostgreSQL at db", "sslmode=none"]),
    ("postgresql://u:s3cret@127.0.0.1/v", ["PostgreSQL at 127.0.0.1"]),
    ("postgresql://db/v?sslmode=require", ["sslmode=require"]),
    ("postgresql://db/v?sslmode=verify-ca&password=s3cret", ["sslmode=verify-ca"]),
    ("postgresql://db/v?sslmode=verify-full&sslmode=disable", ["sslmode=verify-full, disable"]),
    ("postgresql://db/v?sslmode=verify-full&ssl_min_protocol_version=TLSv1", ["ssl_min_protocol_version=TLSv1"]),
    ("postgresql://u:s3cret@a/v?host=/run/postgresql&hostaddr=10.0.0.1", ["10.0.0.1"]),
    ("postgresql:///v?host=/run/postgresql,db", ["db"]),
    ("postgresql:///v", ["no named place", "?host=/run/postgresql"]),  # PGHOST may say anything
    ("postgresql://u:p?sslmode=verify-full&s3cret=@db/v", ["sslmode=none"]),  # that is the password
    ("s3cret", ["no address of a database"]),
])  # fmt: skip
def test_a_database_that_is_not_verified_is_refused_and_no_secret_shown(url: str, named: list[str]) -> None:
    (problem,) = database(STANDARD, url)
    assert [part for part in ("database_url is ", *named) if part not in problem] == []
    assert "s3cret" not in problem


@pytest.mark.parametrize(("url", "is_plain"), [
    ("postgresql://u@127.0.0.1/v", False), ("postgresql://u@localhost/v", False), ("postgresql:///v", False),
    ("postgresql://u@db/v", True), ("postgresql://u@127.0.0.1/v?hostaddr=10.0.0.1", True),
    ("postgresql:///v?host=127.0.0.1,db", True),
])  # fmt: skip
def test_in_dev_a_database_without_tls_is_on_this_machine(url: str, is_plain: bool) -> None:
    assert bool(database(DEV, url)) is is_plain


@pytest.mark.parametrize("profile", ["standard", "cn"])
def test_every_plain_link_of_the_settings_is_named_at_once(profile: str) -> None:
    plain = "postgresql://u:s3cret@db/v"
    with pytest.raises(ValidationError) as refused:
        Settings(
            security={"profile": profile, "password_iterations": 1000}, webhook={"url": "http://his.example/s3cret"},
            database_url=plain, api={"database_url": plain}, doors={"database_url": plain},
            audit={"witnesses": [{"url": "https://good.example", "vkey": VKEY}, {"url": "http://w.example", "vkey": VKEY}]},
        )  # fmt: skip
    (problem,) = refused.value.errors()
    named = ("webhook.url", "audit.witnesses[1].url", "database_url", "api.database_url", "doors.database_url")
    assert [name for name in (*named, "security.password_iterations") if f"{name} is " not in problem["msg"]] == []
    assert "audit.witnesses[0]" not in problem["msg"]
    assert "s3cret" not in problem["msg"]


def test_a_place_of_the_webhook_that_is_none_stops_the_start_and_says_which() -> None:
    for place in ("sz", "sz:futian", "sz.h012", "sz.h012/icu"):
        assert Settings(webhook={"place": place}).webhook.place == place
    for place in ("", "sz.h012/", "Sz/icu", "sz:"):
        with pytest.raises(ValidationError, match=r"webhook\.place\n.* is not "):
            Settings(webhook={"place": place})
