"""Which certificates a platform serves with, for which names, and by what its own commands know it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.connection import Connection
from cluster.pki import API, BUS, DOORS, CertificateKeeper, in_url, ray_tls, reachable, served_with, trust_in, wanted_by
from cluster.ray_environment import check_ray_tls, prepare_ray
from cluster.run_target import remote_target
from domain.bus_rights import OBSERVER
from domain.errors import InvalidInput, Unavailable
from runtime.certificates import holds_for, read_certificate
from runtime.clock import ManualClock
from runtime.settings import Settings
from runtime.tls import CertificateFiles, Trust

CLOCK = ManualClock(1_795_680_000_000_000)

pytestmark = pytest.mark.clause("9.1a")


def settings(tmp_path: Path, profile: str = "standard", **also: object) -> Settings:
    names = also.pop("names", ())
    return Settings(data_dir=tmp_path, security={"profile": profile, "names": names}, **also)


def test_standard_serves_with_certificates_of_its_own_and_nothing_needs_to_be_set(tmp_path):
    given = settings(tmp_path)
    assert [one.name for one in wanted_by(given, ["supervisor"])] == [API, DOORS, "bus", "bus-supervisor"]
    own = str(tmp_path / "pki" / "api.pem")
    assert served_with(given, API) == CertificateFiles(own, own)
    assert trust_in(given, API) == trust_in(given, DOORS) == Trust(str(tmp_path / "pki" / "ca.pem"))


def test_dev_makes_nothing_and_speaks_plain(tmp_path):
    given = settings(tmp_path, "dev")
    assert CertificateKeeper(given, CLOCK).look() == []
    assert list(tmp_path.iterdir()) == []
    assert served_with(given, DOORS) is None
    assert trust_in(given, API) is None


@pytest.mark.parametrize("profile", ["dev", "standard"])
def test_given_files_win_and_are_known_by_themselves(tmp_path, profile):
    files = {"tls_cert_file": tmp_path / "given.pem", "tls_key_file": tmp_path / "given.key"}
    given = settings(tmp_path, profile, api=files)
    assert served_with(given, API) == CertificateFiles(str(tmp_path / "given.pem"), str(tmp_path / "given.key"))
    assert trust_in(given, API) == Trust(str(tmp_path / "given.pem"), is_pin=True)
    assert API not in [one.name for one in wanted_by(given)]


@pytest.mark.parametrize(("host", "names", "expected"), [
    ("127.0.0.1", (), {"localhost", "127.0.0.1", "::1"}),
    ("10.2.3.4", ("Ward.Example", "2001:DB8::0001"),
     {"localhost", "127.0.0.1", "::1", "10.2.3.4", "ward.example", "2001:db8::1"}),
])  # fmt: skip
def test_certificates_hold_for_where_they_are_served_and_for_further_names(tmp_path, host, names, expected):
    given = settings(tmp_path, api={"host": host}, names=names)
    keeper = CertificateKeeper(given, CLOCK)
    assert keeper.look()[:3] == ["authority", API, DOORS]
    assert holds_for(read_certificate(tmp_path / "pki" / "api.pem")) == expected
    assert keeper.look() == []


def test_one_that_is_served_everywhere_holds_for_this_machines_name(tmp_path):
    api = next(one for one in wanted_by(settings(tmp_path, api={"host": "0.0.0.0"})) if one.name == API)
    assert {socket.gethostname().lower(), "127.0.0.1"} <= api.holds_for
    assert "0.0.0.0" not in api.holds_for


def test_the_bus_holds_for_where_hospitals_programs_come_to(tmp_path):
    def names(**bus):
        return next(one.holds_for for one in wanted_by(settings(tmp_path, bus=bus)) if one.name == BUS)

    here = {"localhost", "127.0.0.1", "::1"}
    assert names() == here
    assert names(host="10.1.2.3") == {*here, "10.1.2.3"}
    assert {socket.gethostname().lower(), *here} <= names(host="0.0.0.0")


@pytest.mark.parametrize(("host", "url"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("10.1.1.1", "10.1.1.1")])
def test_a_listener_is_reached_from_here(host, url):
    assert in_url(reachable(host)) == url


@pytest.mark.parametrize(("api_url", "mqtt", "port", "api_is_tls", "doors_are_tls"), [
    ("http://127.0.0.1:8080", None, 1883, False, False),
    ("https://h:8080/", None, 1883, True, True),
    ("https://h:8080", "d:1884", 1884, True, True),
    ("https://h:8080", "mqtt://localhost:1884", 1884, True, False),
    ("http://[::1]:8080", "mqtts://d:8883", 8883, False, True),
])  # fmt: skip
def test_a_platform_elsewhere_is_met_as_its_addresses_say(tmp_path, api_url, mqtt, port, api_is_tls, doors_are_tls):
    target = remote_target(api_url, "token", mqtt, "sz", tmp_path / "ca.pem")
    trust = Trust(str(tmp_path / "ca.pem"))
    assert (target.api_trust, target.doors_trust) == (trust if api_is_tls else None, trust if doors_are_tls else None)
    assert (target.mqtt_port, target.api_url) == (port, api_url.rstrip("/"))


@pytest.mark.parametrize(("api_url", "mqtt", "named"), [
    ("http://h:8080", "mqtts://d:8883", "--against goes to h in clear"),
    ("https://h:8080", "mqtt://d:1884", "--mqtt goes to d in clear"),
    ("http://h:8080", None, "--against goes to h and --mqtt goes to h in clear"),
])  # fmt: skip
def test_no_token_crosses_a_network_in_clear(api_url, mqtt, named):
    with pytest.raises(InvalidInput, match=named):
        remote_target(api_url, "token", mqtt, "sz")


@pytest.mark.parametrize("mqtt", ["http://d:1", "mqtts://d", "mqtts://:8883", "d"])
def test_an_address_that_is_none_is_refused(mqtt):
    with pytest.raises(InvalidInput, match="--mqtt"):
        remote_target("https://h:8080", "token", mqtt, "sz")


def test_each_process_has_a_certificate_to_show_the_bus_and_hosts_get_theirs_when_they_start(tmp_path):
    keeper = CertificateKeeper(settings(tmp_path, hosts={"count": 2}), CLOCK)
    made = [name for name in keeper.look() if name.startswith("bus-")]
    assert made == [
        "bus-api", "bus-audit", "bus-backup", "bus-doors", "bus-host-1", "bus-host-2", "bus-observer", "bus-queries",
        "bus-supervisor",
    ]  # fmt: skip
    key = keeper.let_in("host-3")
    assert holds_for(read_certificate(Path(key.file))) == {"host-3.vitalgrid"}
    assert keeper.look() == []


def test_in_dev_the_bus_has_a_token_that_no_two_starts_share(tmp_path):
    first, second = [CertificateKeeper(settings(tmp_path, "dev"), CLOCK).bus_access() for _ in range(2)]
    assert first.config() != second.config()


def test_commands_find_what_they_show_the_bus(tmp_path):
    with_token = Connection(pid=1, nats_url="", nats_token="t0ken")
    assert with_token.bus_key(OBSERVER) == "t0ken"
    with_certificates = Connection(pid=1, nats_url="", nats_token="", pki_dir=str(tmp_path))
    key = with_certificates.bus_key(OBSERVER)
    assert (key.process, key.file) == (OBSERVER, str(tmp_path / "bus-observer.pem"))


def test_ray_has_an_authority_of_its_own_and_proves_itself_by_what_it_signed(tmp_path):
    given = settings(tmp_path)
    assert "ray" in CertificateKeeper(given, CLOCK).look()
    node = read_certificate(Path(ray_tls(given)["RAY_TLS_SERVER_CERT"]))
    node.verify_directly_issued_by(read_certificate(Path(ray_tls(given)["RAY_TLS_CA_CERT"])))
    with pytest.raises(ValueError, match="subject does not match certificate issuer"):
        node.verify_directly_issued_by(read_certificate(tmp_path / "pki" / "ca.pem"))
    assert holds_for(node) == {"localhost", "127.0.0.1", "::1"}
    assert ray_tls(settings(tmp_path, "dev")) == {}


def test_a_machine_that_joins_rays_cluster_gets_a_certificate_for_its_address(tmp_path, monkeypatch):
    monkeypatch.setenv("VITALGRID_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("VITALGRID_SECURITY__PROFILE", "standard")
    made = CliRunner().invoke(app, ["ray-certificate", "10.0.0.7"])
    assert made.exit_code == 0, made.output
    exports = [line for line in made.output.splitlines() if line.startswith("export ")]
    told = dict(line.removeprefix("export ").split("=", 1) for line in exports)
    assert told["RAY_USE_TLS"] == "1"
    assert "10.0.0.7" in holds_for(read_certificate(Path(told["RAY_TLS_SERVER_CERT"])))
    for address in ("../api", "10.0.0.7 -x", ""):
        assert isinstance(CliRunner().invoke(app, ["ray-certificate", "--", address]).exception, InvalidInput)
    monkeypatch.setenv("VITALGRID_SECURITY__PROFILE", "dev")
    assert isinstance(CliRunner().invoke(app, ["ray-certificate", "10.0.0.7"]).exception, InvalidInput)


def test_ray_is_told_to_speak_tls_and_given_certificates_win(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {"RAY_USE_TLS": "0", "RAY_TLS_CA_CERT": "/given/ca.pem"})
    CertificateKeeper(settings(tmp_path), CLOCK).look()
    prepare_ray(ray_tls(settings(tmp_path)))
    assert os.environ["RAY_USE_TLS"] == "1"
    assert os.environ["RAY_TLS_SERVER_CERT"] == str(tmp_path / "pki" / "ray" / "node.pem")
    with pytest.raises(Unavailable, match="RAY_TLS_CA_CERT is '/given/ca"):
        check_ray_tls()
    monkeypatch.setattr(os, "environ", {})
    prepare_ray(ray_tls(settings(tmp_path)))
    check_ray_tls()
    monkeypatch.setattr(os, "environ", {})
    prepare_ray(ray_tls(settings(tmp_path, "dev")))
    assert "RAY_USE_TLS" not in os.environ
