"""One message followed from the wire to the screen and back, on a whole platform: by MQTT, HTTP and frames, over the death of
its host, over a hand-over, and when the stream has it no more. No value and no name is in a trace. Clause 9.2a."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from domain.frames import encode_frame
from domain.metrics import metric_of
from domain.readings import ReadingBatch
from runtime.clock import SystemClock
from tests.e2e.test_restoration import forget
from tests.running_platform import RunningPlatform, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(280), pytest.mark.clause("9.2a")]

HOSPITAL = "sz.e2e"
MONITOR = f"{HOSPITAL}/mon-1"
NAME, REF, LOW, PLAIN = "Ouyang Canary", "MRN-canary-77", "71.25", "97.125"


@dataclass
class Traced:
    """A platform with a monitor on a patient, a gateway, and engineers of this hospital, of another and of one ward."""

    platform: RunningPlatform
    token: str
    gateway: dict[str, Any]
    patient_key: str
    engineer: str
    stranger: str
    of_ward: str
    texts: list[str] = field(default_factory=list)  # every trace that was given

    def get(self, path: str, token: str | None = None, **params: Any) -> httpx.Response:
        with self.platform.http() as http:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            answer = http.get(path, params=params, headers=headers)
        if path.startswith("/traces"):
            self.texts.append(answer.text)
        return answer

    def trace(self, key: str, **params: Any) -> dict[str, Any]:
        answer = self.get(f"/traces/{key}", **params)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def publish(self, payload: str) -> None:
        connection = self.platform.connection
        subprocess.run(
            ["mosquitto_pub", "-h", connection.mqtt_host, "-p", str(connection.mqtt_port), "-u", self.token, "-P", "x",
             "-i", "mon-1", "-q", "1", "-t", "v1/devices/me/telemetry", "-m", payload],
            check=True, timeout=20,
        )  # fmt: skip

    def curl(self, path: str, token: str, body: bytes, media_type: str) -> tuple[dict[str, Any], str]:
        """The answer to a POST, and the id of the request."""
        said = subprocess.run(
            ["curl", "-sS", "-i", "--noproxy", "*", "-H", f"Authorization: Bearer {token}", "-H", f"Content-Type: {media_type}",
             "--data-binary", "@-", f"http://127.0.0.1:{self.platform.connection.http_port}{path}"],
            input=body, capture_output=True, check=True, timeout=20,
        ).stdout.decode()  # fmt: skip
        head, _, answer = said.replace("\r", "").partition("\n\n")
        headers = dict(line.split(": ", 1) for line in head.splitlines()[1:])
        return json.loads(answer), headers["x-request-id"]

    def send(self, **reading: Any) -> str:
        """One reading by HTTP; its receipt."""
        answer, _ = self.curl("/v1/readings", self.token, json.dumps(reading).encode(), "application/json")
        return str(answer["receipt"])

    def stored(self, receipt: str) -> dict[str, Any]:
        """The trace of a message once the lake has all of it."""

        def in_lake() -> dict[str, Any] | None:
            found = self.trace(receipt)
            return found if found["readings"] and all(one["where"] == "lake" for one in found["readings"]) else None

        return dict(wait_until(in_lake, 90, lambda: self.texts[-1]))


@pytest.fixture(scope="module")
def traced(platform: RunningPlatform) -> Traced:
    token = platform.register_monitor(HOSPITAL)
    with platform.http() as http:

        def make(path: str, **body: Any) -> dict[str, Any]:
            answer = http.post(path, json=body)
            assert answer.status_code == 201, answer.text
            return dict(answer.json())

        make("/hospitals", id="sz.other", name="Another", tier="primary", beds=8)
        patient = make("/patients", hospital_id=HOSPITAL, ref=REF, name=NAME, age_years=60)["patient_key"]
        make("/associations", hospital_id=HOSPITAL, device_id="mon-1", patient_key=patient, start="2026-01-01T00:00:00Z")
        gateway = make("/devices", hospital_id=HOSPITAL, device_id="gw-1", model="gateway", with_token=True)
        carried = {"hospital_id": HOSPITAL, "model": "monitor", "gateway_id": "gw-1"}
        handles = [
            make("/devices", device_id=name, ward_id=ward, **carried)["device"]["handle"]
            for name, ward in (("mon-8", "w1"), ("mon-9", "w2"))
        ]
        engineers = [
            make("/tokens", name=f"engineer-{place.replace('/', '-')}", role="biomedical-engineer", place=place)["token"]
            for place in (HOSPITAL, "sz.other", f"{HOSPITAL}/w1")
        ]
    about = {"token": gateway["token"], "handle": gateway["device"]["handle"], "carries": handles}
    return Traced(platform, token, about, patient, *engineers)


def steps_of(trace: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["step"]: step for step in trace["steps"]}


def in_order(trace: dict[str, Any]) -> bool:
    """Stored after it was taken in, and acknowledged, taken and committed after it was stored."""
    at = {name: step["after_ms"] for name, step in steps_of(trace).items()}
    return at["stored"] >= 0 and all(at["stored"] - 1 <= at[name] for name in ("acknowledged", "taken", "committed"))


def test_what_a_live_stream_shows_leads_back_to_the_wire_and_on_to_its_alarm(traced: Traced) -> None:
    shown: list[dict[str, Any]] = []
    is_open = threading.Event()

    def watch() -> None:
        with traced.platform.http() as http, http.stream("GET", "/live/readings", params={"device": MONITOR}) as answer:
            for line in answer.iter_lines():
                is_open.set()
                if line.startswith("data:") and "readings" in line and "trace" in line:
                    shown.append(json.loads(line.removeprefix("data:")))
                    return

    watching = threading.Thread(target=watch)
    watching.start()
    assert is_open.wait(20)
    traced.publish(f'{{"nibp_sys": {LOW}}}')
    watching.join(20)
    receipt = shown[0]["trace"]
    trace = traced.stored(receipt)
    assert trace["receipt"] == receipt
    assert in_order(trace), trace["steps"]
    assert steps_of(trace)["received"]["facts"]["door"] == "mqtt"
    (sender,) = trace["senders"]
    assert (sender["sender"], sender["protocol"], sender["connection"][:5]) == (MONITOR, "mqtt", "mqtt-")
    assert trace["fates"] == {"stored": 1}
    starts = {one["rule"] for one in trace["alarms"] if one["phase"] == "start"}
    assert "limit.very-low" in starts
    alarm = trace["alarms"][0]["alarm_id"]
    with traced.platform.http() as http:
        assert http.post(f"/alarms/{alarm}/acknowledge", json={"outcome": "actionable"}).is_success

    def seen() -> dict[str, Any] | None:
        found = traced.trace(receipt)
        return found if found["shown"]["streams"] and found["alarms"][0]["acknowledged_by"] else None

    followed = wait_until(seen, 20, lambda: traced.texts[-1])
    assert any(one["route"].endswith("/live/readings") for one in followed["shown"]["events"])
    assert traced.patient_key in traced.get("/audit/events", patient=traced.patient_key).text  # it was noted whose it was


def test_a_request_is_followed_by_its_receipt_and_found_by_its_device(traced: Traced) -> None:
    body = json.dumps({"metric": "spo2", "value": float(PLAIN), "seq": 41}).encode()
    answer, request_id = traced.curl("/v1/readings", traced.token, body, "application/json")
    trace = traced.stored(answer["receipt"])
    (sender,), (reading,) = trace["senders"], trace["readings"]
    assert (sender["request"], sender["path"], sender["size_bytes"]) == (request_id, "/v1/readings", len(body))
    assert (reading["device"], reading["metric"], reading["source_sequence"]) == (MONITOR, "spo2", 41)
    assert reading["lake_file"].endswith(".parquet")
    rows = traced.get("/readings", device=MONITOR, metric="spo2", **{"with": "trace"}).json()["items"]
    found = traced.get("/traces", device=MONITOR, metric="spo2").json()["messages"]
    latest = traced.get("/readings/latest", device=MONITOR, metric="spo2", **{"with": "trace"}).json()["items"]
    for key in (rows[-1]["trace"], found[0]["trace"], latest[0]["trace"]):
        assert traced.trace(key)["receipt"] == answer["receipt"]
    again = traced.send(metric="spo2", value=float(PLAIN), seq=41, time=reading["time"])
    double = wait_until(lambda: found if (found := traced.trace(again))["fates"] != {"waiting": 1} else None, 20)
    assert double["fates"] == {"double": 1}
    assert traced.trace(double["readings"][0]["trace"])["receipt"] == answer["receipt"]


def test_a_gateways_frame_is_followed_for_each_of_its_devices(traced: Traced) -> None:
    gateway, now_us = traced.gateway, SystemClock().now_us()
    first, second = gateway["carries"]
    batch = ReadingBatch.of(
        handle=[first, second, second], metric=metric_of("heart_rate").id, time_us=[now_us, now_us, now_us - 7_200_000_000],
        value=[88.5, 250.0, float(PLAIN)], source=gateway["handle"], sequence=[1, 2, 3],
    )  # fmt: skip
    frame = encode_frame(batch, source=gateway["handle"], sequence=1, arrival_us=now_us)
    answer, _ = traced.curl("/v1/frames", gateway["token"], frame, "application/vnd.vitalgrid.frame")
    trace = traced.stored(answer["receipt"])
    assert [sender["sender"] for sender in trace["senders"]] == [f"{HOSPITAL}/gw-1"]
    assert {(one["handle"], one["source_sequence"]) for one in trace["readings"]} == {(first, 1), (second, 2), (second, 3)}
    assert ["late" in one["marks"] for one in trace["readings"]] == [False, False, True]
    one = traced.trace(answer["receipt"], device=f"{HOSPITAL}/mon-8")
    assert ([reading["handle"] for reading in one["readings"]], one["readings_not_listed"]) == ([first], 2)


@pytest.mark.clause("7.2b")
@pytest.mark.clause("8.4d")
def test_of_a_frame_of_two_wards_an_engineer_of_one_sees_what_became_of_its_own_devices(traced: Traced) -> None:
    gateway, now_us = traced.gateway, SystemClock().now_us()
    first, second = gateway["carries"]
    with traced.platform.http() as http:
        assert http.post(f"/devices/{HOSPITAL}/mon-9/isolation", json={}).is_success
    batch = ReadingBatch.of(
        handle=[first, second], metric=metric_of("heart_rate").id, time_us=now_us, value=float(PLAIN),
        source=gateway["handle"], sequence=[11, 12],
    )  # fmt: skip
    frame = encode_frame(batch, source=gateway["handle"], sequence=2, arrival_us=now_us)
    answer, _ = traced.curl("/v1/frames", gateway["token"], frame, "application/vnd.vitalgrid.frame")
    wanted = {"stored": 1, "rejected: isolated": 1}

    def followed() -> dict[str, Any] | None:
        found = traced.trace(answer["receipt"])
        return found if found["fates"] == wanted else None

    whole = wait_until(followed, 20, lambda: traced.texts[-1])
    (reject,) = whole["rejects"]
    assert traced.trace(reject)["senders"][0]["sender"] == f"{HOSPITAL}/gw-1"
    own = traced.get(f"/traces/{answer['receipt']}", traced.of_ward).json()
    assert ([one["handle"] for one in own["readings"]], own["fates"], own["rejects"]) == ([first], {"stored": 1}, [])
    assert (own["readings_of_others"], own["readings_not_listed"]) == (1, 0)
    assert "mon-9" not in json.dumps(own)
    other = traced.get(f"/traces/{answer['receipt']}", traced.of_ward, device=f"{HOSPITAL}/mon-9")
    assert other.status_code == traced.get(f"/traces/{reject}", traced.of_ward).status_code == 404
    assert traced.get("/traces", traced.of_ward, device=f"{HOSPITAL}/mon-9").status_code == 403
    with traced.platform.http() as http:
        assert http.post(f"/devices/{HOSPITAL}/mon-9/isolation/release").is_success


def test_what_a_device_said_is_followed_to_its_alarm(traced: Traced) -> None:
    body = json.dumps({"event": "lead_off", "detail": f"{NAME} pulled it off"}).encode()
    answer, _ = traced.curl("/v1/events", traced.token, body, "application/json")

    def raised() -> dict[str, Any] | None:
        found = traced.trace(answer["receipt"])
        return found if found["alarms"] else None

    trace = wait_until(raised, 20, lambda: traced.texts[-1])
    assert (trace["kind"], trace["senders"][0]["sender"]) == ("event", MONITOR)
    assert [(one["rule"], one["phase"]) for one in trace["alarms"]] == [("device.lead-off", "start")]
    assert list(steps_of(trace)) == ["stored", "taken"]


def test_a_refused_message_is_found_among_the_rejects_and_followed(traced: Traced) -> None:
    body = f'{{"metric": "spo2", "value": "{NAME} {LOW}"}}'.encode()
    _, request_id = traced.curl("/v1/readings", traced.token, body, "application/json")
    found = wait_until(lambda: traced.get("/traces", device=MONITOR).json()["rejects"], 20)
    trace = traced.trace(found[0]["trace"])
    assert (trace["kind"], trace["kept_in"], trace["senders"][0]["sender"]) == ("reject", ["rejects"], MONITOR)
    assert [step["step"] for step in trace["steps"]] == ["received", "rejected"]
    assert request_id in traced.platform.log("doors.log")  # by which the door's log tells of it


def test_a_message_that_never_came_is_said_to_be_none(traced: Traced) -> None:
    receipt = traced.send(metric="spo2", value=96.0)
    shard, _, sequence = receipt.partition("-")
    beyond = traced.get(f"/traces/{shard}-{int(sequence) + 10**9}")
    assert beyond.status_code == 404
    assert "the stream is at" in beyond.json()["detail"]
    assert traced.get(f"/traces/{(int(shard) + 1) % 4}-{sequence}").status_code == 404
    assert traced.get("/traces/whatever").status_code == 422
    assert traced.get("/traces/at-999999-1-1").status_code == 404


@pytest.mark.clause("7.2b")
def test_engineers_follow_messages_of_their_own_hospital_and_see_no_access_log(traced: Traced) -> None:
    receipt = traced.send(metric="spo2", value=95.0)
    traced.stored(receipt)
    own = traced.get(f"/traces/{receipt}", traced.engineer)
    assert own.status_code == 200, own.text
    assert (own.json()["shown"]["events"], own.json()["shown"]["link"]) == (None, None)
    assert traced.get(f"/traces/{receipt}", traced.stranger).status_code == 404
    assert traced.get(f"/traces/{own.json()['readings'][0]['trace']}", traced.stranger).status_code == 404
    assert traced.get("/traces", traced.stranger, device=MONITOR).status_code == 403
    assert traced.get("/traces", traced.engineer, device=MONITOR).json()["messages"]


def test_the_death_of_its_host_leaves_one_row_and_the_whole_way(traced: Traced) -> None:
    traced.stored(traced.send(metric="heart_rate", value=81.5))
    receipt = traced.send(metric="heart_rate", value=82.5)
    pids = traced.platform.connection.host_pids
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: set(traced.platform.connection.host_pids.values()).isdisjoint(pids.values()), 90)
    trace = traced.stored(receipt)
    (reading,) = trace["readings"]
    rows = traced.get("/readings", device=MONITOR, metric="heart_rate", **{"with": "trace"}).json()["items"]
    assert [row["trace"] for row in rows].count(reading["trace"]) == 1
    committed = steps_of(trace)["committed"]["facts"]
    assert committed["host"].startswith("host-")
    assert traced.stored(traced.send(metric="heart_rate", value=83.5))["unknown"] == []


def test_a_hospital_that_changed_shards_is_followed_over_both(traced: Traced) -> None:
    before = traced.send(metric="heart_rate", value=84.5)
    traced.stored(before)
    shard = int(before.partition("-")[0])
    with traced.platform.http() as http:
        begun = http.post(f"/hospitals/{HOSPITAL}/hand-over", json={"shard": (shard + 1) % 4})
        assert begun.is_success, begun.text

    def elsewhere() -> str | None:
        receipt = traced.send(metric="heart_rate", value=85.5)
        return None if receipt.startswith(f"{shard}-") else receipt

    after = wait_until(elsewhere, 60)
    assert steps_of(traced.stored(after))["taken"]["facts"]["shard"] == (shard + 1) % 4
    trace = traced.stored(before)
    assert (trace["fates"], steps_of(trace)["committed"]["facts"]["shard"]) == ({"stored": 1}, shard)


def test_the_command_line_shows_the_way(traced: Traced) -> None:
    receipt = traced.send(metric="heart_rate", value=86.5)
    traced.stored(receipt)

    def vitalgrid_trace(*words: str) -> str:
        told = subprocess.run(
            [sys.executable, "-m", "cluster.cli", "trace", *words, "--data-dir", str(traced.platform.data_dir)],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        traced.texts.append(told.stdout)
        return told.stdout

    text = vitalgrid_trace(receipt)
    assert all(word in text for word in ("received", "stored", "acknowledged", "taken", "committed", "heart_rate"))
    assert json.loads(vitalgrid_trace("--device", MONITOR, "--last", "--json"))["receipt"] == receipt


def test_when_the_stream_forgot_a_message_the_lake_tells_what_it_knows(traced: Traced) -> None:
    receipt = traced.send(metric="heart_rate", value=87.5)
    reading = traced.stored(receipt)["readings"][0]
    traced.send(metric="heart_rate", value=88.5)
    forget(traced.platform)
    by_receipt = traced.trace(receipt)
    assert (by_receipt["kind"], by_receipt["kept_in"]) == ("unknown", ["lake"])
    assert "device and time" in " ".join(by_receipt["unknown"])
    by_reading = traced.trace(reading["trace"])
    assert (by_reading["receipt"], by_reading["kept_in"], by_reading["fates"]) == (None, ["lake"], {"stored": 1})
    assert "receipt" in " ".join(by_reading["unknown"])
    assert steps_of(by_reading)["committed"]["facts"]["host"].startswith("host-")


@pytest.mark.clause("9.3c")
def test_no_trace_held_a_value_or_a_name(traced: Traced) -> None:
    """Of all that the tests before this one were told."""
    assert len(traced.texts) > 20
    for text in traced.texts:
        assert [secret for secret in (LOW, PLAIN, "Canary", REF, traced.patient_key) if secret in text] == [], text
