"""Certificates of the platform's own: made once, renewed in time, never silently of another authority."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.x509 import ExtendedKeyUsage
from cryptography.x509.oid import ExtendedKeyUsageOID

from domain.errors import IntegrityViolation
from runtime.certificates import Authority, Wanted, canonical, holds_for, is_due, read_certificate
from runtime.keys import KeyMissing
from tests.openssl import needs_openssl, openssl

NOW = datetime(2026, 11, 26, 9, tzinfo=UTC)
WANTED = Wanted("api", frozenset({"localhost", "127.0.0.1", "::1"}), is_server=True)

pytestmark = pytest.mark.clause("9.1a")


@pytest.fixture
def authority(tmp_path):
    made = Authority(tmp_path / "pki")
    assert made.make_missing("sz", NOW)
    return made


def test_an_authority_is_made_once(authority):
    before = authority.file.read_bytes()
    assert not authority.make_missing("sz", NOW + timedelta(days=1))
    assert authority.file.read_bytes() == before


def test_two_authorities_are_told_apart_by_name(authority, tmp_path):
    other = Authority(tmp_path / "other")
    other.make_missing("sz", NOW)
    assert read_certificate(other.file).subject != read_certificate(authority.file).subject


def test_an_authority_whose_certificate_was_not_written_keeps_its_key(authority):
    authority.keep(WANTED, NOW)
    before = read_certificate(authority.file).public_key()
    authority.file.unlink()
    assert authority.make_missing("sz", NOW)
    assert read_certificate(authority.file).public_key() == before


def test_nobody_else_can_read_a_key(authority):
    authority.keep(WANTED, NOW)
    for path in authority.file.parent.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    assert authority.file.parent.stat().st_mode & 0o077 == 0


@needs_openssl
@pytest.mark.parametrize(("is_server", "purpose"), [(True, "sslserver"), (False, "sslclient")])
def test_openssl_finds_a_certificate_good_for_its_purpose_and_no_other(authority, is_server, purpose):
    wanted = Wanted("one", WANTED.holds_for, is_server=is_server)
    authority.keep(wanted, datetime.now(UTC))
    file, ca = str(authority.file_of("one")), str(authority.file)
    assert openssl("verify", "-x509_strict", "-purpose", purpose, "-CAfile", ca, "-verify_ip", "::1", file).endswith("OK\n")
    purposes = read_certificate(authority.file_of("one")).extensions.get_extension_for_class(ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH]


def test_a_certificate_is_kept_for_two_thirds_of_its_life(authority):
    assert authority.keep(WANTED, NOW)
    before = authority.file_of("api").read_bytes()
    assert not authority.keep(WANTED, NOW + timedelta(days=59))
    assert authority.file_of("api").read_bytes() == before
    later = NOW + timedelta(days=61)
    assert authority.keep(WANTED, later)
    renewed = read_certificate(authority.file_of("api"))
    assert renewed.not_valid_after_utc == later + timedelta(days=90)
    assert not is_due(renewed, later)


def test_one_that_has_not_begun_is_made_anew(authority):
    authority.keep(WANTED, NOW + timedelta(days=300))  # the clock was ahead then
    assert authority.keep(WANTED, NOW)


def test_further_names_make_it_anew_fewer_do_not(authority):
    authority.keep(WANTED, NOW)
    more = Wanted("api", WANTED.holds_for | {"ward.example", "10.1.2.3"}, is_server=True)
    assert authority.keep(more, NOW)
    assert holds_for(read_certificate(authority.file_of("api"))) == more.holds_for
    assert not authority.keep(WANTED, NOW)


@pytest.mark.parametrize("spoilt", ["cut", "not its key", "no key", "of another authority", "a client's", "gone"])
def test_what_cannot_serve_is_made_anew(authority, tmp_path, spoilt):
    authority.keep(WANTED, NOW)
    file = authority.file_of("api")
    key, _, certificate = file.read_text().partition("-----BEGIN CERTIFICATE-----")
    match spoilt:
        case "cut":
            file.write_text((key + _ + certificate)[:400])
        case "not its key":
            authority.keep(Wanted("other", WANTED.holds_for, is_server=True), NOW)
            file.write_text(authority.file_of("other").read_text().partition("-----BEGIN CERT")[0] + _ + certificate)
        case "no key":
            file.write_text(_ + certificate)
        case "of another authority":
            other = Authority(tmp_path / "other")
            other.make_missing("sz", NOW)
            other.keep(WANTED, NOW)
            file.write_bytes(other.file_of("api").read_bytes())
        case "a client's":
            authority.keep(Wanted("api", WANTED.holds_for, is_server=False), NOW)
        case "gone":
            file.unlink()
    assert authority.keep(WANTED, NOW)
    assert not authority.keep(WANTED, NOW)


def test_without_its_key_an_authority_signs_nothing_new_and_what_is_good_stays(authority):
    authority.keep(WANTED, NOW)
    (authority.file.parent / "ca.key").unlink()
    assert not authority.keep(WANTED, NOW)
    with pytest.raises(KeyMissing, match=r"ca\.key is missing"):
        authority.keep(WANTED, NOW + timedelta(days=61))
    assert not (authority.file.parent / "ca.key").exists()


@pytest.mark.parametrize("content", [b"", b"noise", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_damaged_key_or_authority_is_said(authority, content):
    (authority.file.parent / "ca.key").write_bytes(content)
    with pytest.raises(IntegrityViolation, match=r"ca\.key is damaged"):
        authority.keep(WANTED, NOW)
    authority.file.write_bytes(content)
    with pytest.raises(IntegrityViolation, match=r"ca\.pem holds no certificate"):
        authority.keep(WANTED, NOW)


def test_nothing_outlives_its_authority(authority):
    ends = read_certificate(authority.file).not_valid_after_utc
    authority.keep(WANTED, ends - timedelta(days=10))
    assert read_certificate(authority.file_of("api")).not_valid_after_utc == ends
    with pytest.raises(IntegrityViolation, match="has ended"):
        authority.keep(WANTED, ends)


@pytest.mark.parametrize(("text", "spelled"), [
    ("::0001", "::1"), ("Ward.Example", "ward.example"), ("10.0.0.1", "10.0.0.1"),
])  # fmt: skip
def test_names_have_one_spelling(text, spelled):
    assert canonical(text) == spelled


def test_a_peers_is_good_for_both_sides_and_for_more_than_a_year(authority):
    authority.keep(WANTED, NOW)
    peer = Wanted("api", WANTED.holds_for, is_server=True, is_peer=True, lasts=True)
    assert authority.keep(peer, NOW)  # a server's alone does not do
    made = read_certificate(authority.file_of("api"))
    assert set(made.extensions.get_extension_for_class(ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH,
    }  # fmt: skip
    assert made.not_valid_after_utc == NOW + timedelta(days=397)
    assert not authority.keep(peer, NOW + timedelta(days=260))
    assert authority.keep(peer, NOW + timedelta(days=265))
