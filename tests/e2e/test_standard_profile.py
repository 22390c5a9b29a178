"""The whole platform in security profile `standard` and nothing else configured: TLS everywhere, strangers refused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as mqtt
import pyotp
import pytest
from click.testing import Result
from typer.testing import CliRunner

from cluster.cli import app
from cluster.connection import admin_token_file, first_password_file
from domain.bus_rights import OBSERVER
from domain.errors import VitalgridError
from domain.principals import Role
from runtime.bus_access import BusCertificate
from runtime.certificates import Authority
from runtime.tls import Trust
from tests.bus_program import connections_of, program_of_the_howto, request_of
from tests.listening_ports import TLS_ALERT, assert_every_port_is_declared_and_speaks_tls, declared, handshake
from tests.openssl import openssl
from tests.running_platform import RunningPlatform, start_platform, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.clause("9.1a")]

HOSPITAL = "sz.tls"
PORTS = ("api", "mqtt", "http", "bus")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory):
    running = start_platform(tmp_path_factory.mktemp("standard"), SECURITY__PROFILE="standard")
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture(scope="module")
def monitor_token(platform: RunningPlatform) -> str:
    return platform.register_monitor(HOSPITAL)


def ca_of(platform: RunningPlatform) -> str:
    return str(platform.data_dir / "pki" / "ca.pem")


def publish(platform: RunningPlatform, token: str, payload: dict[str, Any], ca: str) -> None:
    """As a device of another make does: paho, QoS 1, until the PUBACK has come. Raises what its TLS raises."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="mon-1")
    client.username_pw_set(token, "x")
    client.tls_set(ca_certs=ca)
    connection = platform.connection
    client.connect(connection.mqtt_host, connection.mqtt_port)
    client.loop_start()
    try:
        client.publish("v1/devices/me/telemetry", json.dumps(payload), qos=1).wait_for_publish(10)
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.mark.clause("5.4c")
def test_a_reading_over_tls_is_answered_over_tls_and_its_alarm_streamed(platform: RunningPlatform, monitor_token: str) -> None:
    raised, listening = [], threading.Event()

    def listen() -> None:
        with (
            platform.http(Role.BIOMEDICAL_ENGINEER) as http,
            http.stream("GET", "/live/alarms", params={"hospital": HOSPITAL}) as stream,
        ):
            for line in stream.iter_lines():
                listening.set()
                if line.startswith("data:") and "nibp_sys" in line:
                    raised.append(line)
                    return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    assert listening.wait(20)
    publish(platform, monitor_token, {"hr": 72, "nibp_sys": 70, "nibp_dia": 40}, ca_of(platform))

    def stored() -> list[dict[str, Any]]:
        with platform.http(Role.BIOMEDICAL_ENGINEER) as http:
            return list(http.get("/readings", params={"device": f"{HOSPITAL}/mon-1"}).json()["items"])

    wait_until(lambda: {row["metric"] for row in stored()} >= {"heart_rate", "nibp_sys"}, 20, stored)
    listener.join(20)
    assert raised


@pytest.mark.clause("5.4a", "9.4")
def test_a_device_enrols_with_openssl_and_curl_and_speaks_mqtt_by_its_certificate(
    platform: RunningPlatform, monitor_token: str, tmp_path: Path
) -> None:
    """As docs/howto/enrol-a-device.md has it; and its token opens nothing more once that is wanted."""
    connection, ca = platform.connection, ca_of(platform)
    key, request, certificate = (str(tmp_path / f"mon-1.{kind}") for kind in ("key", "csr", "pem"))
    with platform.http(Role.BIOMEDICAL_ENGINEER) as http:
        made = http.post(f"/devices/{HOSPITAL}/mon-1/claim-code")
        assert made.status_code == 201, made.text
    openssl(
        "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=mon-1",
        "-keyout", key, "-out", request,
    )  # fmt: skip
    url = f"https://{connection.mqtt_host}:{connection.http_port}/v1/enrolment"
    claim = ["curl", "-sS", "--fail-with-body", "--cacert", ca, "-H", f"Authorization: Claim {made.json()['claim_code']}"]
    subprocess.run([*claim, "--data-binary", f"@{request}", "-o", certificate, url], check=True, timeout=30)
    say = ["mosquitto_pub", "-h", connection.mqtt_host, "-p", str(connection.mqtt_port), "--cafile", ca, "-q", "1"]
    reading = ["-t", "v1/devices/me/readings", "-m", '{"metric": "resp_rate", "value": 17}']
    subprocess.run([*say, "--cert", certificate, "--key", key, *reading], check=True, timeout=30)
    stranger = subprocess.run([*say, *reading], timeout=30, capture_output=True, check=False)
    assert stranger.returncode != 0

    def shown() -> list[tuple[str, bool]]:
        with platform.http(Role.BIOMEDICAL_ENGINEER) as http:
            rows = http.get(f"/devices/{HOSPITAL}/mon-1/credentials").json()
            values = http.get("/readings", params={"device": f"{HOSPITAL}/mon-1", "metric": "resp_rate"}).json()["items"]
        assert [row["value"] for row in values] in ([], [17.0])
        used = [(row["kind"], row["last_used"] is not None) for row in rows]
        return used if values and ("certificate", True) in used else []

    wait_until(shown, 30)


@pytest.mark.clause("5.4a")
@pytest.mark.clause("9.4")
def test_a_hospitals_program_hears_its_alarms_on_the_bus_until_it_is_revoked(
    platform: RunningPlatform, monitor_token: str, tmp_path: Path
) -> None:
    """As docs/howto/hear-alarms-on-the-bus.md has it, with its program."""
    made = vitalgrid(platform, "token", "add", "his-1", "--role", "station", "--at", HOSPITAL)
    assert made.exit_code == 0, made.output
    (tmp_path / "his.token").write_text(made.stdout)
    request = request_of(tmp_path)
    certified = vitalgrid(platform, "bus", "certify", "his-1", "--request", request)
    assert certified.exit_code == 0, certified.output
    (tmp_path / "his.pem").write_text(certified.stdout)
    with platform.http(Role.SECURITY_ADMINISTRATOR) as http:
        (row,) = http.get("/tokens/his-1/bus-certificates").json()
    program = program_of_the_howto(platform.connection.nats_url, row)
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("hello ")
        publish(platform, monitor_token, {"nibp_sys": 60, "nibp_dia": 30}, ca_of(platform))
        for line in running.stdout:
            if line.startswith("alarm ") and "nibp" in line:
                break
        assert running.poll() is None
        revoked = vitalgrid(platform, "bus", "revoke", "his-1", str(row["id"]))
        assert revoked.exit_code == 0, revoked.output
        address = ("127.0.0.1", declared(platform)["bus"])
        wait_until(lambda: address not in connections_of(running.pid), 10)
        running.terminate()
    assert "revoked" in vitalgrid(platform, "bus", "list", "his-1").output
    with platform.http(Role.AUDIT_ADMINISTRATOR) as http:

        def noted() -> bool:
            events = http.get("/audit/events", params={"principal": "his-1"}).json()["items"]
            return any("live/alarms" in json.dumps(event) for event in events)

        wait_until(noted, 20)


@pytest.mark.clause("7.2a")
def test_the_first_user_does_nothing_before_there_is_a_second_factor(platform: RunningPlatform) -> None:
    given, new = first_password_file(platform.data_dir).read_text(), "kettle otter nine violins"
    api = platform.connection.api_url
    with httpx.Client(verify=Trust(ca_of(platform)).context(), trust_env=False, timeout=30) as http:

        def sign_in(password: str, **more: str) -> httpx.Response:
            form = {"grant_type": "password", "username": "administrator", "password": password} | more
            return http.post(f"{api}/oauth/token", data=form)

        def post(path: str, **body: str) -> dict[str, Any]:
            answer = http.post(f"{api}/api/v1/me/{path}", json=body)
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        http.headers["Authorization"] = f"Bearer {sign_in(given).json()['access_token']}"
        http.headers["Authorization"] = f"Bearer {post('password', present=given, new=new)['access_token']}"
        assert http.get(f"{api}/api/v1/hospitals").json()["code"] == "second-factor-setup-required"
        secret = post("second-factor", present=new)["secret"]
        codes = post("second-factor/confirm", code=pyotp.TOTP(secret).now())["recovery_codes"]
        assert http.get(f"{api}/api/v1/hospitals").status_code == 200
        assert sign_in(new).json()["code"] == "second-factor-required"
        assert sign_in(new, totp=codes[0]).status_code == 200
    for log in (platform.data_dir / "log").iterdir():
        text = log.read_text(errors="replace")
        assert [told for told in (secret, *codes) if told in text] == [], log


def test_the_http_door_and_our_own_commands_speak_tls(platform: RunningPlatform, monitor_token: str) -> None:
    door = f"https://127.0.0.1:{platform.connection.http_port}/v1/readings"
    headers = {"Authorization": f"Bearer {monitor_token}"}
    trusting = Trust(ca_of(platform)).context()
    answer = httpx.post(door, json={"metric": "spo2", "value": 97}, headers=headers, verify=trusting, trust_env=False)
    assert answer.status_code == 200, answer.text
    sent = subprocess.run(
        [sys.executable, "-m", "gateways.device_client", "--port", str(platform.connection.mqtt_port),
         "--token", monitor_token, "--ca", ca_of(platform), "--reading", "resp_rate=16"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert sent.returncode == 0, sent.stderr
    listed = vitalgrid(platform, "hosts", "list")
    assert (listed.exit_code, "host-1" in listed.output) == (0, True), listed.output


def vitalgrid(platform: RunningPlatform, *words: str) -> Result:
    """A command on the platform's machine, by whoever has configured nothing."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VITALGRID_DATA_DIR", str(platform.data_dir))
        return CliRunner().invoke(app, words)


@pytest.mark.clause("7.2b")
def test_this_machines_token_gives_orders_and_reads_no_patient(
    platform: RunningPlatform, monitor_token: str, tmp_path: Path
) -> None:
    for words in (
        "doctor", "hosts list", "keys list", "log verify", "log fsck", "log show", "token list",
        "user add li.na --role nurse --at sz", "user permissions li.na", "user list", "user sessions",
    ):  # fmt: skip
        done = vitalgrid(platform, *words.split())
        assert done.exit_code == 0, (words, done.output[-2000:])
    refused = vitalgrid(platform, "fleet", "record", "--out", str(tmp_path / "recording"), "--for", "1s")
    assert isinstance(refused.exception, VitalgridError), refused.output
    assert "may not reading.read" in str(refused.exception)
    assert "--token" in str(refused.exception)
    assert list((tmp_path / "recording").iterdir()) == []
    by_rest = f"{platform.connection.api_url}/api/v1/log"
    done = vitalgrid(platform, "log", "verify", by_rest)
    assert done.exit_code == 0, done.output
    with platform.http() as http:
        keys = [argument for key in http.get("/log/keys").text.split() for argument in ("--vkey", key)]
        verifier = tmp_path / "verifier.py"
        verifier.write_bytes(http.get("/log/verifier").content)
        token_file = admin_token_file(platform.data_dir)
        alone = [
            sys.executable,
            "-S",
            "-I",
            verifier,
            "log",
            by_rest,
            "--token-file",
            token_file,
            "--ca",
            ca_of(platform),
            *keys,
        ]
        assert subprocess.run(alone, capture_output=True, timeout=60, check=False).returncode == 0
        for path in ("/patients", f"/readings?device={HOSPITAL}/mon-1", "/alarms", "/associations", "/audit/events"):
            assert http.get(path).status_code == 403, path


@pytest.mark.clause("9.3b")
def test_a_program_gets_a_token_of_its_role_and_loses_it(platform: RunningPlatform) -> None:
    made = vitalgrid(platform, "token", "add", "auditor", "--role", "audit-administrator")
    assert made.exit_code == 0, made.output
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    with platform.http(headers=headers) as http:
        assert http.get("/audit/events", params={"principal": "local-operator"}).json()["items"] != []
        assert http.get("/patients").status_code == 403
        assert vitalgrid(platform, "token", "revoke", "auditor").exit_code == 0
        wait_until(lambda: http.get("/audit/events").status_code == 401, 20)
    for words in (("add", "auditor", "--role", "nurse"), ("add", "king", "--role", "administrator"), ("revoke", "auditor")):
        refused = vitalgrid(platform, "token", *words)
        assert (isinstance(refused.exception, VitalgridError), refused.stdout) == (True, ""), words


def test_a_story_is_played_by_a_runner_of_its_own(platform: RunningPlatform, tmp_path: Path) -> None:
    small = ("fleet.devices=200", "warmup_s=2", "duration_s=4", "fault.0.at_s=3", "generator.late_share_max=1")
    options = [word for setting in small for word in ("--set", setting)]
    told = vitalgrid(platform, "scenario", "run", "calm-district", *options, "--run-id", "calm", "--reports", str(tmp_path))
    ledger = json.loads((tmp_path / "calm" / "report.json").read_text())["ledger"]
    assert (ledger["lost"], ledger["doubled"]) == (0, 0), told.output
    assert ledger["stored"] > 200
    with platform.http() as http:
        runners = [one for one in http.get("/tokens").json()["items"] if one["name"].startswith("scenario-runner-")]
    assert [one["revoked"] is None for one in runners] == [False]


def as_observer(platform: RunningPlatform) -> ssl.SSLContext:
    """The bus speaks with those only who show a certificate."""
    key = platform.connection.bus_key(OBSERVER)
    assert isinstance(key, BusCertificate)
    return key.taken_up().context


@pytest.mark.clause("9.4")
@pytest.mark.clause("5.4a")
def test_every_port_is_declared_and_none_speaks_plain_but_those_with_a_reason(platform: RunningPlatform) -> None:
    assert_every_port_is_declared_and_speaks_tls(platform)


@pytest.mark.clause("9.4")
@pytest.mark.parametrize("name", PORTS)
def test_no_plain_port_answers_and_none_by_old_tls(platform: RunningPlatform, name: str) -> None:
    port = declared(platform)[name]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert plain.recv(1024)[:1] in (b"", TLS_ALERT)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(port, old)
    for highest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        new = as_observer(platform) if name == "bus" else Trust(ca_of(platform)).context()
        new.maximum_version = highest
        assert handshake(port, new) in ("TLSv1.2", "TLSv1.3")
    weak = as_observer(platform) if name == "bus" else Trust(ca_of(platform)).context()
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("ECDHE+AES:!AESGCM:!AESCCM:@SECLEVEL=0")  # in a mode of TLS that padding was guessed in
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(port, weak)


@pytest.mark.clause("5.4a")
@pytest.mark.parametrize("name", PORTS)
def test_whoever_trusts_another_authority_does_not_believe_us(platform: RunningPlatform, name: str, tmp_path: Path) -> None:
    foreign = Authority(tmp_path)
    foreign.make_missing("sz", datetime.now(UTC))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(declared(platform)[name], Trust(str(foreign.file)).context())


@pytest.mark.clause("9.4")
def test_the_bus_says_nothing_to_whoever_has_no_certificate(platform: RunningPlatform) -> None:
    context = Trust(ca_of(platform)).context()
    with (
        socket.create_connection(("127.0.0.1", declared(platform)["bus"]), timeout=20) as raw,
        contextlib.suppress(ssl.SSLError, ConnectionError),
        context.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
    ):
        assert wrapped.recv(1024) == b""


@pytest.mark.clause("9.3d")
def test_a_host_that_takes_the_place_of_a_killed_one_is_let_in(platform: RunningPlatform, monitor_token: str) -> None:
    before = platform.connection.host_pids
    os.kill(before["host-1"], signal.SIGKILL)
    wait_until(lambda: "host-3" in platform.connection.host_pids, 60, lambda: platform.log("up.log")[-2000:])
    publish(platform, monitor_token, {"pulse_rate": 81}, ca_of(platform))

    def stored() -> list[Any]:
        with platform.http(Role.BIOMEDICAL_ENGINEER) as http:
            answer = http.get("/readings", params={"device": f"{HOSPITAL}/mon-1", "metric": "pulse_rate"})
        return list(answer.json()["items"]) if answer.is_success else []

    assert [row["value"] for row in wait_until(stored, 60)] == [81.0]


def test_no_process_of_ours_was_refused_anything_and_secrets_are_the_owners(platform: RunningPlatform) -> None:
    said = (platform.data_dir / "nats" / "nats-server.log").read_text()
    assert [line for line in said.splitlines() if "Violation" in line] == []
    assert platform.connection.nats_token == ""
    for path in (*(platform.data_dir / "pki").rglob("*"), platform.data_dir / "nats" / "run" / "nats-server.conf"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_it_stops_clean_and_keeps_its_authority(platform: RunningPlatform) -> None:
    before = (platform.data_dir / "pki" / "ca.pem").read_bytes()
    assert platform.stop() == 0
    for name in ("up.log", "api.log", "doors.log"):
        assert "eof_received" not in platform.log(name)  # a library's word that is no fault
    assert (platform.data_dir / "pki" / "ca.pem").read_bytes() == before
