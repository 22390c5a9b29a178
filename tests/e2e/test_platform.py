"""The whole platform as its users meet it: `vitalgrid up`, a real MQTT client, REST, kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as paho
import psutil
import pytest

from cluster.connection import admin_token_file, first_password_file
from domain.audit_reading import said
from runtime.log_events import events_between
from runtime.log_store import LogReader
from runtime.log_verifier import Source, verify_log
from tests.running_platform import RunningPlatform, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

HOSPITAL = "sz.e2e"


@pytest.fixture(scope="module")
def monitor_token(platform: RunningPlatform) -> str:
    """A monitor at a bed of a hospital, registered as an operator would."""
    return platform.register_monitor(HOSPITAL)


def publish(platform: RunningPlatform, token: str, payload: str) -> None:
    connection = platform.connection
    subprocess.run(
        ["mosquitto_pub", "-h", connection.mqtt_host, "-p", str(connection.mqtt_port), "-u", token, "-P", "x",
         "-i", "mon-1", "-q", "1", "-t", "v1/devices/me/telemetry", "-m", payload],
        check=True, timeout=20,
    )  # fmt: skip


def items(platform: RunningPlatform, path: str, **params: Any) -> list[dict[str, Any]]:
    with platform.http() as http:
        answer = http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["items"])


@pytest.mark.clause("5.4e")
@pytest.mark.clause("7.1a")
def test_a_reading_sent_by_mqtt_is_answered_by_rest(platform: RunningPlatform, monitor_token: str) -> None:
    publish(platform, monitor_token, '{"hr": 72, "spo2": 97}')
    found = wait_until(lambda: items(platform, "/readings", device=f"{HOSPITAL}/mon-1"), 20)
    assert {(row["metric"], row["value"]) for row in found} == {("heart_rate", 72.0), ("spo2", 97.0)}


@pytest.mark.clause("6.3f")
@pytest.mark.clause("9.2c")
def test_a_value_beyond_its_limit_becomes_an_alarm_that_tells_what_was_known(
    platform: RunningPlatform, monitor_token: str
) -> None:
    publish(platform, monitor_token, '{"nibp_sys": 70, "nibp_dia": 40}')
    raised = wait_until(lambda: items(platform, "/alarms", hospital=HOSPITAL), 20)
    alarm = next(row for row in raised if row["rule"] == "limit.very-low" and row["metric"] == "nibp_sys")
    assert (alarm["value"], alarm["limit"], alarm["state"], alarm["priority_name"]) == (70.0, 80.0, "active", "high")
    with platform.http() as http:
        knowledge = http.get(f"/alarms/{alarm['alarm_id']}/knowledge").json()
    assert "information-only" in str(knowledge)
    assert "nibp_sys" in str(knowledge)


@pytest.mark.clause("5.4a")
@pytest.mark.clause("9.3b")
def test_a_device_whose_token_is_replaced_loses_its_connection_at_once(platform: RunningPlatform, monitor_token: str) -> None:
    assert monitor_token
    with platform.http() as http:
        made = http.post(
            "/devices", json={"hospital_id": HOSPITAL, "device_id": "pump-1", "model": "infusion-pump", "with_token": True}
        )
        ended = threading.Event()
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="pump-1")
        client.username_pw_set(made.json()["token"])
        client.on_disconnect = lambda *_: ended.set()
        client.connect(platform.connection.mqtt_host, platform.connection.mqtt_port)
        client.loop_start()
        try:
            wait_until(client.is_connected, 10)
            assert http.post(f"/devices/{HOSPITAL}/pump-1/token").status_code == 201
            assert ended.wait(5)
        finally:
            client.disconnect()
            client.loop_stop()


@pytest.mark.clause("7.1b")
def test_large_questions_are_answered_by_a_process_of_their_own_that_comes_back(
    platform: RunningPlatform, monitor_token: str
) -> None:
    publish(platform, monitor_token, '{"map": 90}')
    before = platform.connection.process_pids["queries"]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: platform.connection.process_pids["queries"] != before, 30)

    def by_hour() -> list[dict[str, Any]]:
        with platform.http() as http:
            answer = http.get("/aggregates/fleet", params={"metric": "nibp_mean"})
        return list(answer.json()["items"]) if answer.status_code == 200 else []

    (hour,) = wait_until(by_hour, 30)
    assert (hour["hospital"], hour["count"], hour["mean"]) == (HOSPITAL, 1, 90.0)


@pytest.mark.clause("5.4a")
@pytest.mark.parametrize("path", ["/api/v1/hospitals", "/docs", "/openapi.json", "/health", "/ready", "/metrics"])
def test_nothing_answers_without_a_token(platform: RunningPlatform, path: str) -> None:
    assert httpx.get(platform.connection.api_url + path).status_code == 401


@pytest.mark.clause("7.2d")
def test_the_first_administrator_signs_in_changes_the_password_and_has_one_session(platform: RunningPlatform) -> None:
    api, first = platform.connection.api_url, first_password_file(platform.data_dir)
    assert first.stat().st_mode & 0o077 == 0
    given, new = first.read_text(), "kettle otter nine violins"

    def sign_in(password: str) -> dict[str, Any]:
        form = {"grant_type": "password", "username": "administrator", "password": password}
        answer = httpx.post(f"{api}/oauth/token", data=form, trust_env=False, timeout=30)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def get(path: str, session: dict[str, Any]) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {session['access_token']}"}
        answer = httpx.get(f"{api}/api/v1{path}", headers=headers, trust_env=False)
        return answer.status_code, answer.json().get("code", "")

    begun = sign_in(given)
    assert get("/hospitals", begun) == (403, "password-change-required")
    headers = {"Authorization": f"Bearer {begun['access_token']}"}
    body = {"present": given, "new": new}
    changed = httpx.post(f"{api}/api/v1/me/password", json=body, headers=headers, trust_env=False, timeout=30)
    assert changed.status_code == 200, changed.text
    assert not first.exists()
    again = sign_in(new)
    assert get("/hospitals", changed.json()) == (401, "session-superseded")
    assert get("/hospitals", again) == (200, "")
    secrets = (given, new, begun["access_token"], again["access_token"], again["refresh_token"])
    for log in (platform.data_dir / "log").iterdir():
        text = log.read_text(errors="replace")
        assert [secret for secret in secrets if secret in text] == [], log


@pytest.mark.clause("9.3b")
def test_users_are_made_and_listed_from_the_command_line(platform: RunningPlatform) -> None:
    def vitalgrid_user(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cluster.cli", "user", *words, "--data-dir", str(platform.data_dir)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    made = vitalgrid_user("add", "li.na")
    assert (made.returncode, "first password" in made.stdout + made.stderr) == (0, True), made
    twice = vitalgrid_user("add", "li.na")
    assert (twice.returncode, "is taken" in twice.stderr) == (1, True), twice
    listed = vitalgrid_user("list")
    assert "li.na" in listed.stdout + listed.stderr
    given = vitalgrid_user("grant", "li.na", "capacity-planner")
    assert (given.returncode, "capacity-planner" in given.stdout + given.stderr) == (0, True), given
    nowhere = vitalgrid_user("grant", "li.na", "nurse", "--at", "sz.h999/icu")
    assert (nowhere.returncode, "no place 'sz.h999/icu'" in nowhere.stderr) == (1, True), nowhere
    none = vitalgrid_user("reset-factor", "li.na")
    assert (none.returncode, "has no second factor" in none.stderr) == (1, True), none
    form = {"grant_type": "password", "username": "li.na", "password": made.stdout.split()[-1]}
    begun = httpx.post(f"{platform.connection.api_url}/oauth/token", data=form, trust_env=False, timeout=30)
    assert "127.0.0.1" in vitalgrid_user("sessions").stdout
    for says in ("signed out", "was not signed in"):
        assert says in vitalgrid_user("sign-out", "li.na").stdout
    nobody = vitalgrid_user("sign-out", "nosuch")
    assert (nobody.returncode, "nosuch" in nobody.stderr) == (1, True), nobody
    bearer = {"Authorization": f"Bearer {begun.json()['access_token']}"}
    told = httpx.get(f"{platform.connection.api_url}/api/v1/me", headers=bearer, trust_env=False)
    assert (told.status_code, told.json()["code"]) == (401, "session-ended")


def test_commands_on_what_is_not_there_end_with_one_and_say_so(platform: RunningPlatform, tmp_path: Path) -> None:
    def vitalgrid(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cluster.cli", *words, "--data-dir", str(platform.data_dir)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    unknown = vitalgrid("bus", "list", "nosuch")
    assert (unknown.returncode, "nosuch" in unknown.stderr) == (1, True), unknown
    with platform.http() as http:
        hospital = {"id": "sz.enrols", "name": "x", "tier": "primary", "beds": 8}
        assert http.post("/hospitals", json=hospital).status_code == 201
    (tmp_path / "devices.csv").write_text("device_id\nmon-404\n")
    refused = vitalgrid("devices", "enrol", "sz.enrols", str(tmp_path / "devices.csv"))
    assert (refused.returncode, "mon-404," in refused.stdout) == (1, True), refused
    assert "1 of 1 devices got no claim code" in refused.stderr


def test_what_the_doors_count_reaches_prometheus(platform: RunningPlatform, monitor_token: str) -> None:
    def figures() -> dict[str, float]:
        with platform.http() as http:
            lines = [line for line in http.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(number) for name, _, number in (line.rpartition(" ") for line in lines)}

    before = wait_until(
        lambda: {n: v for n, v in figures().items() if n.startswith(("vitalgrid_door", "vitalgrid_intake"))}, 20
    )
    publish(platform, monitor_token, '{"pulse_rate": 81}')
    publish(platform, monitor_token, '{"pulse_rate": "fast"}')
    url = f"http://127.0.0.1:{platform.connection.http_port}/v1/readings"
    for token, status in ((monitor_token, 200), ("none", 401)):
        reading, headers = {"metric": "pulse_rate", "value": 82.0}, {"Authorization": f"Bearer {token}"}
        assert httpx.post(url, json=reading, headers=headers, trust_env=False).status_code == status
    expected = {
        'vitalgrid_door_messages_total{door="mqtt"}': 2, 'vitalgrid_door_readings_total{door="mqtt"}': 1,
        'vitalgrid_door_connections_accepted_total{door="mqtt"}': 2, 'vitalgrid_door_messages_total{door="http"}': 1,
        'vitalgrid_door_readings_total{door="http"}': 1, "vitalgrid_intake_readings_total": 2,
        "vitalgrid_intake_rejects_total": 1,
    }  # fmt: skip

    def added() -> dict[str, float]:
        now = figures()
        return {name: now.get(name, 0.0) - before.get(name, 0.0) for name in expected}

    wait_until(lambda: added() == expected, 20, added)
    shown = figures()
    assert any(name.startswith('vitalgrid_door_rejects_total{door="mqtt",reason=') for name in shown)
    assert any(name.startswith('vitalgrid_door_connections_refused_total{door="http",why=') for name in shown)
    assert (
        shown['vitalgrid_door_received_bytes_total{door="mqtt"}'] > before['vitalgrid_door_received_bytes_total{door="mqtt"}']
    )


@pytest.mark.clause("9.4")
def test_every_port_of_the_platform_is_on_loopback(platform: RunningPlatform) -> None:
    root = psutil.Process(platform.process.pid)
    own = {root.pid, *(child.pid for child in root.children(recursive=True)), *platform.connection.process_pids.values()}
    listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid in own]
    assert len(listening) >= 4
    assert {connection.laddr.ip for connection in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def own_keys(platform: RunningPlatform) -> list[Path]:
    return [path for path in (platform.data_dir / "keys").rglob("*.key") if path.is_file()]


def test_secrets_are_readable_by_their_owner_only(platform: RunningPlatform) -> None:
    assert platform.data_dir.stat().st_mode & 0o077 == 0
    for secret in (admin_token_file(platform.data_dir), platform.data_dir / "run.json", *own_keys(platform)):
        assert secret.stat().st_mode & 0o077 == 0, secret


@pytest.mark.clause("9.3d")
def test_a_killed_host_loses_nothing_and_its_shards_go_on(platform: RunningPlatform, monitor_token: str) -> None:
    before = platform.connection.host_pids
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    publish(platform, monitor_token, '{"resp_rate": 17}')
    found = wait_until(
        lambda: items(platform, "/readings", device=f"{HOSPITAL}/mon-1", metric="resp_rate"), 90,
        lambda: platform.log("up.log")[-2000:],
    )  # fmt: skip
    assert [row["value"] for row in found] == [17.0]
    assert len(items(platform, "/readings", device=f"{HOSPITAL}/mon-1", metric="heart_rate")) == 1
    assert set(platform.connection.host_pids.values()).isdisjoint(before.values())


@pytest.mark.clause("9.3e")
def test_the_access_log_goes_on_when_its_process_is_killed(platform: RunningPlatform) -> None:
    os.kill(platform.connection.process_pids["audit"], signal.SIGKILL)
    with platform.http() as http:
        made = http.post("/hospitals", json={"id": "sz.logged", "name": "Logged", "tier": "primary", "beds": 8})
        assert made.status_code == 201, made.text
    folder = platform.data_dir / "audit"

    def targets() -> list[str]:
        checkpoint = LogReader(folder).checkpoint()
        events = events_between(folder, 0, checkpoint.size) if checkpoint else []
        return [line.target for event in events if (line := said(event.event or b"")) is not None]

    wait_until(lambda: "sz.logged" in targets(), 60, lambda: platform.log("audit.log")[-2000:])
    assert targets().count("sz.logged") == 1
    with platform.http() as http:
        metrics = platform.connection.api_url + "/metrics"
        wait_until(lambda: "vitalgrid_log_troubled 0.0" in http.get(metrics).text, 20)
        verify_log(Source(str(folder)), http.get("/log/keys").text.split())


@pytest.mark.clause("9.3e")
def test_protected_records_are_not_shown_while_the_access_logs_process_hangs(platform: RunningPlatform) -> None:
    with platform.http() as http:
        wait_until(lambda: http.get("/patients").status_code == 200, 20)
        hung = platform.connection.process_pids["audit"]
        os.kill(hung, signal.SIGSTOP)
        try:
            refused = wait_until(lambda: (answer := http.get("/patients")).status_code == 503 and answer, 30)
            assert refused.json()["code"] == "audit-unavailable"
            log = next(check for check in http.get("/ready").json()["checks"] if check["name"] == "access-log")
            assert not log["ok"]
        finally:
            os.kill(hung, signal.SIGCONT)
        wait_until(lambda: http.get("/patients").status_code == 200, 20)


def test_a_second_platform_in_the_same_directory_is_refused(platform: RunningPlatform) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "up", "--data-dir", str(platform.data_dir)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 1
    assert "another platform runs" in second.stderr
