"""The doctor names what is wrong and how to mend it, and does not cry wolf on a sound machine."""

from __future__ import annotations

import json
import resource
import shutil
import socket
from collections import namedtuple

import pytest
import typer
from typer.testing import CliRunner

from cluster import doctor
from cluster.connection import Connection
from cluster.doctor import Level, examine
from cluster.pki import CertificateKeeper
from domain.errors import Unavailable
from domain.instants import US_PER_S
from runtime.clock import ManualClock, SystemClock
from runtime.setting_sections import ApiSettings, BusSettings, DoorSettings, HostSettings, SecuritySettings
from runtime.settings import Settings

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def settings(tmp_path):
    return Settings(
        data_dir=tmp_path / "not-made-yet",
        api=ApiSettings(port=0),
        doors=DoorSettings(mqtt_port=0, http_port=0, max_connections=64),
        bus=BusSettings(max_stream_bytes=2**20),
        hosts=HostSettings(count=1),
    )


def only(findings):
    (finding,) = findings
    return finding


@pytest.fixture
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_every_check_answers_and_every_fault_says_how_to_mend_it(settings):
    findings = examine(settings)
    assert {"python", "libraries", "nats-server", "api.port", "disk", "fsync", "memory", "cores", "open-files", "clock",
            "time-zones", "database"} <= {finding.check for finding in findings}  # fmt: skip
    assert all((finding.mend is None) == (finding.level is Level.OK) for finding in findings)


def test_the_machine_that_runs_the_tests_has_what_the_lock_names(settings):
    assert only(doctor.libraries(settings)).level is Level.OK
    assert only(doctor.nats_server(settings)).level is Level.OK


def test_a_missing_and_an_outdated_library_are_both_named(settings, monkeypatch, tmp_path):
    lock = tmp_path / "requirements.lock"
    lock.write_text("numpy==0.0.1 \\\n    --hash=sha256:00\n")
    monkeypatch.setattr(doctor, "LOCK_FILE", lock)
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: ["numpy>=2", "no-such-library>=1"])
    finding = only(doctor.libraries(settings))
    assert finding.level is Level.PROBLEM
    assert "locked is 0.0.1" in finding.says
    assert "no-such-library is not installed" in finding.says
    assert finding.mend == "make setup"


def test_a_python_of_another_version_is_a_problem(settings, monkeypatch):
    monkeypatch.setattr(doctor, "PYTHONS", ((2, 7), (3, 0)))
    assert only(doctor.python(settings)).level is Level.PROBLEM


def test_a_missing_nats_server_is_a_problem(settings, monkeypatch):
    def none_found():
        raise Unavailable("nats-server is not installed")

    monkeypatch.setattr(doctor, "find_nats_server", none_found)
    assert only(doctor.nats_server(settings)).level is Level.PROBLEM


def test_a_taken_port_is_a_problem_that_names_the_setting_to_change(settings, taken_port):
    busy = settings.model_copy(update={"doors": DoorSettings(mqtt_port=taken_port, http_port=0)})
    problem = only(f for f in doctor.ports(busy) if f.level is not Level.OK)
    assert (problem.check, problem.level) == ("doors.mqtt_port", Level.PROBLEM)
    assert "VITALGRID_DOORS__MQTT_PORT" in problem.mend


def test_a_port_held_by_the_platform_itself_is_no_fault(settings, taken_port, tmp_path):
    busy = settings.model_copy(update={"data_dir": tmp_path, "api": ApiSettings(port=taken_port)})
    Connection(pid=1, nats_url="", nats_token="").save(tmp_path)
    assert all(finding.level is Level.OK for finding in doctor.ports(busy))


@pytest.mark.parametrize(("free", "level"), [(2**20, Level.PROBLEM), (2 * 2**30, Level.WARNING), (2**40, Level.OK)])
def test_disk_room_is_measured_against_the_stream(settings, monkeypatch, free, level):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 0, free))
    roomy = settings.model_copy(update={"bus": BusSettings(max_stream_bytes=10 * 2**30)})
    assert only(doctor.disk(roomy)).level is level


@pytest.mark.parametrize(("median_ms", "level"), [(0.001, Level.WARNING), (1.0, Level.OK), (50.0, Level.WARNING)])
def test_slow_and_unbelievably_fast_fsync_are_both_warned_of(settings, monkeypatch, median_ms, level):
    monkeypatch.setattr(doctor, "_fsync_ms", lambda _: median_ms)
    assert only(doctor.fsync(settings)).level is level


def test_the_fsync_probe_leaves_nothing_behind(settings, tmp_path):
    list(doctor.fsync(settings))
    assert list(tmp_path.iterdir()) == []


def test_too_few_open_files_are_warned_of(settings, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    finding = only(doctor.open_files(settings))
    assert finding.level is Level.WARNING
    assert "256 open files" in finding.says


def test_too_little_shared_memory_is_warned_of(settings, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 * 2**20, 0, 64 * 2**20))
    assert [finding.level for finding in doctor.shared_memory(settings)] == [Level.WARNING]


def test_a_clock_from_before_this_software_is_a_problem(settings, monkeypatch):
    monkeypatch.setattr(doctor, "EARLIEST_NOW_US", 2**62)
    assert only(doctor.clock(settings)).level is Level.PROBLEM


def test_an_unreachable_database_is_a_problem_that_shows_no_password(settings):
    url = "postgresql+psycopg://u:s3cret@127.0.0.1:1/x?sslmode=verify-full"
    dead = settings.model_copy(update={"database_url": Settings(database_url=url).database_url})
    finding = only(doctor.database(dead))
    assert finding.level is Level.PROBLEM
    assert "s3cret" not in finding.says


@pytest.fixture
def command(monkeypatch, settings):
    app = typer.Typer()
    app.command()(doctor.doctor)
    monkeypatch.setattr(doctor, "Settings", lambda **_: settings)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_the_command_answers_zero_on_a_fit_machine_and_json_on_request(command, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", (doctor.python,))
    assert command().exit_code == 0
    answer = json.loads(command("--json").output)
    assert answer["fit"] is True
    assert [finding["check"] for finding in answer["findings"]] == ["python"]


def test_the_command_answers_one_and_how_to_mend_it_on_an_unfit_machine(command, monkeypatch):
    monkeypatch.setattr(doctor, "PYTHONS", ((2, 7), (3, 0)))
    monkeypatch.setattr(doctor, "CHECKS", (doctor.python,))
    result = command()
    assert result.exit_code == 1
    assert "mend: make clean setup" in result.output


@pytest.mark.clause("7.2c")
def test_cryptography_that_gives_another_answer_is_a_problem_and_named(settings, monkeypatch):
    assert only(doctor.cryptography(settings)).level is Level.OK
    monkeypatch.setattr("runtime.known_answers.sm3", lambda _: bytes(32))
    finding = only(doctor.cryptography(settings))
    assert finding.level is Level.PROBLEM
    assert "SM3 (GB/T 32905 A.1)" in finding.says
    assert "SM4" not in finding.says


def test_cryptography_that_breaks_is_a_problem_too(settings, monkeypatch):
    def broken(*_arguments):
        raise ValueError("no such cipher")

    monkeypatch.setattr("runtime.known_answers.sm4_gcm_seal", broken)
    assert "SM4-GCM seals" in only(doctor.cryptography(settings)).says


def test_the_security_profile_is_named(settings):
    assert only(doctor.security(settings)).says == "standard"


def in_standard(settings, tmp_path, **also):
    return settings.model_copy(update={"data_dir": tmp_path, "security": SecuritySettings(profile="standard"), **also})


def test_before_the_first_start_no_certificate_is_missed_and_none_is_made(settings, tmp_path):
    finding = only(doctor.certificates(in_standard(settings, tmp_path)))
    assert (finding.level, "first start" in finding.says) == (Level.OK, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("age_days", "runs", "level", "says"), [
    (0, True, Level.OK, " ends 20"), (70, True, Level.WARNING, "time to renew"), (91, True, Level.PROBLEM, "does not hold now"),
    (0, False, Level.OK, " ends 20"), (91, False, Level.OK, "the next start makes another"),
])  # fmt: skip
def test_certificates_are_named_with_their_end(settings, tmp_path, age_days, runs, level, says):
    standard = in_standard(settings, tmp_path)
    CertificateKeeper(standard, ManualClock(SystemClock().now_us() - age_days * 86_400 * US_PER_S)).look()
    if runs:
        Connection(pid=1, nats_url="", nats_token="").save(tmp_path)
    found = {finding.check: finding for finding in doctor.certificates(standard)}
    assert found["certificate.authority"].level is Level.OK
    for name in ("api", "doors", "bus", "bus-supervisor"):
        finding = found[f"certificate.{name}"]
        assert (finding.level, says in finding.says) == (level, True), finding
        assert str(tmp_path / "pki" / f"{name}.pem") in finding.says


def test_given_files_that_do_not_serve_are_a_problem(settings, tmp_path):
    files = {"tls_cert_file": tmp_path / "no.pem", "tls_key_file": tmp_path / "no.key"}
    findings = list(doctor.certificates(in_standard(settings, tmp_path, doors=DoorSettings(**files))))
    assert [(f.check, f.level) for f in findings if f.level is not Level.OK] == [("certificate.doors", Level.PROBLEM)]


def test_a_folder_that_others_may_look_into_is_told_and_who_will_close_it(settings):
    assert only(doctor.privacy(settings)).level is Level.OK
    folder = settings.data_dir
    folder.mkdir()
    folder.chmod(0o755)
    warned = only(doctor.privacy(settings))
    assert (warned.level, "next start closes it" in warned.mend) == (Level.WARNING, True)
    (folder / "homes").mkdir()
    wrong = only(doctor.privacy(settings))
    assert (wrong.level, "chmod 700" in wrong.mend) == (Level.PROBLEM, True)
    folder.chmod(0o700)
    assert only(doctor.privacy(settings)).level is Level.OK
