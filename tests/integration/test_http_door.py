"""The HTTP door before curl and httpx, on a real server."""

from __future__ import annotations

import json
from dataclasses import replace

import httpx
import pytest

from domain.errors import Unavailable
from domain.frames import encode_frame
from domain.quality import Mark, has_mark
from domain.readings import ReadingBatch
from gateways.http_door import http_door
from runtime.bus import Bus
from runtime.clock import SystemClock
from runtime.intake import StreamIntake
from runtime.intake_lanes import IntakeLimits
from runtime.receipts import StreamReceipts
from tests.doors import GATEWAY, MONITOR, NOW_US, DictIdentities, MemoryBus, assert_same_rows, clock, run, served

pytestmark = pytest.mark.integration

FRAME_TYPE = "application/vnd.vitalgrid.frame"
BEARER = {"Authorization": "Bearer token-of-monitor"}
JSON = {**BEARER, "Content-Type": "application/json"}
HR_72 = b'{"metric": "heart_rate", "value": 72}'


class Stage:
    """A door on a bus in memory; `restart` makes a new one on the same bus."""

    def __init__(self):
        self.bus, self.identities, self.clock = MemoryBus(), DictIdentities(), clock()
        self.restart()

    def restart(self):
        intake = StreamIntake(self.bus, self.identities, self.clock, source=2, limits=IntakeLimits(ack_timeout_s=0.1))
        self.app = http_door(self.identities, intake, self.clock, StreamReceipts(self.bus), max_payload_bytes=4096)

    async def post(self, path, body, headers=JSON):
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
            return await client.post(path, content=body, headers=headers)

    @property
    def counters(self):
        return self.app.state.counters


@pytest.fixture
def stage():
    return Stage()


def assert_problem(response, status, code):
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["type"].endswith(code)
    assert len(problem["detail"]) > 15
    assert problem["title"]


async def curl(*arguments, stdin=None):
    """(status, body as JSON) by a real curl."""
    code, output = await run("curl", "-sS", "-w", "\n%{http_code}", *arguments, stdin=stdin)
    assert code == 0, output
    body, _, status = output.rpartition("\n")
    return int(status), json.loads(body) if body else None


@pytest.mark.clause("5.4e")
async def test_curl_posts_one_reading_a_list_and_telemetry(stage):
    async with served(stage.app) as url:
        headers = ("-H", "Authorization: Bearer token-of-monitor", "-H", "Content-Type: application/json")
        assert await curl(f"{url}/v1/readings", *headers, "-d", HR_72.decode()) == (200, {"accepted": 1, "receipt": "3-1"})
        listed = '[{"metric": "spo2", "value": 97}, {"metric": "resp_rate", "value": 14}]'
        assert await curl(f"{url}/v1/readings", *headers, "-d", listed) == (200, {"accepted": 2, "receipt": "3-2"})
        telemetry = ("-H", "Content-Type: application/json", "-d", '{"etco2": 38}')
        assert await curl(f"{url}/api/v1/token-of-monitor/telemetry", *telemetry) == (200, {"accepted": 1, "receipt": "3-3"})
    batch = stage.bus.readings()
    assert batch.value.tolist() == [72, 97, 14, 38]
    assert set(batch.handle.tolist()) == {MONITOR.handle}


@pytest.mark.clause("5.4a")
async def test_curl_without_a_good_token_is_refused_before_its_body_is_read(stage):
    async with served(stage.app) as url:
        for token in ((), ("-H", "Authorization: Bearer wrong"), ("-H", "Authorization: Basic dG9rZW4=")):
            status, problem = await curl(
                f"{url}/v1/readings", *token, "-H", "Content-Type: application/json", "-d", HR_72.decode()
            )
            assert (status, problem["code"]) == (401, "unauthenticated")
        status, _ = await curl(f"{url}/api/v1/wrong/telemetry", "-H", "Content-Type: application/json", "-d", '{"hr": 1}')
        assert status == 401
    assert stage.bus.messages == []
    assert stage.counters.connections_refused == {"unauthenticated": 4}


@pytest.mark.clause("8.1")
async def test_curls_oversize_body_is_refused_while_it_streams(stage):
    async with served(stage.app) as url:
        status, problem = await curl(
            f"{url}/v1/readings", "-H", "Authorization: Bearer token-of-monitor", "-H", "Content-Type: application/json",
            "-H", "Transfer-Encoding: chunked", "-H", "Expect:", "--data-binary", "@-", stdin=b" " * 300_000,
        )  # fmt: skip
    assert (status, problem["code"]) == (413, "oversize")
    (kept,) = stage.bus.rejects()
    assert (kept.reason, len(kept.payload)) == ("oversize", 4096)


@pytest.mark.clause("5.4b")
async def test_a_frame_of_a_gateway(stage):
    batch = ReadingBatch.of(handle=[7, 8], metric=[1, 4], time_us=NOW_US, value=[72.0, 97.0], source=100, sequence=[1, 2])
    frame = encode_frame(batch, source=100, sequence=1, arrival_us=0)
    response = await stage.post("/v1/frames", frame, {"Authorization": "Bearer token-of-gateway", "Content-Type": FRAME_TYPE})
    assert response.json() == {"accepted": 2, "receipt": "3-1"}
    assert_same_rows(stage.bus.readings(), batch)


@pytest.mark.clause("8.1")
@pytest.mark.parametrize(
    ("status", "code", "path", "body", "headers"),
    [
        (400, "malformed-json", "/v1/readings", b"{", JSON),
        (400, "malformed-value", "/v1/readings", b'{"metric": "hr", "value": "x"}', JSON),
        (422, "unknown-metric", "/v1/readings", b'{"metric": "mood", "value": 1}', JSON),
        (422, "wrong-unit", "/v1/readings", b'{"metric": "hr", "value": 1, "unit": "kPa"}', JSON),
        (422, "implausible-time", "/api/v1/token-of-monitor/telemetry", b'{"ts": 1, "values": {"hr": 1}}', JSON),
        (415, "wrong-content-type", "/v1/readings", HR_72, BEARER),
        (415, "wrong-content-type", "/v1/readings", HR_72, {**BEARER, "Content-Type": "text/plain"}),
        (415, "wrong-content-type", "/v1/frames", HR_72, JSON),
        (415, "wrong-content-encoding", "/v1/readings", HR_72, {**JSON, "Content-Encoding": "gzip"}),
        (413, "oversize", "/v1/readings", b"[" + b" " * 5000 + b"]", JSON),
        (400, "malformed-frame", "/v1/frames", b"VGFR", {**BEARER, "Content-Type": FRAME_TYPE}),
        (400, "malformed-key", "/v1/readings", HR_72, {**JSON, "Idempotency-Key": "k" * 256}),
        (422, "unknown-device", "/v1/frames", encode_frame(ReadingBatch.of(handle=8, metric=1, time_us=NOW_US, value=72.0),
                                                           source=7, sequence=1, arrival_us=0),
         {**BEARER, "Content-Type": FRAME_TYPE}),
    ],
)  # fmt: skip
async def test_a_refused_message_is_a_problem_and_a_kept_reject(stage, status, code, path, body, headers):
    response = await stage.post(path, body, headers)
    assert_problem(response, status, code)
    (kept,) = stage.bus.rejects()
    assert (kept.reason, kept.door, kept.principal, kept.payload) == (code, "http", MONITOR.name, body[:4096])
    assert kept.topic == path.replace("token-of-monitor", "{token}")
    assert stage.bus.frames() == []
    assert stage.counters.rejects == {code: 1}


@pytest.mark.clause("5.4c")
async def test_a_damaged_frame_is_refused_and_sent_again_it_is_taken(stage):
    headers = {**BEARER, "Content-Type": FRAME_TYPE}
    frame = encode_frame(ReadingBatch.of(handle=7, metric=1, time_us=NOW_US, value=72.0), source=7, sequence=1, arrival_us=0)
    damaged = frame[:-9] + bytes([frame[-9] ^ 4]) + frame[-8:]
    assert_problem(await stage.post("/v1/frames", damaged, headers), 400, "damaged-frame")
    assert (await stage.post("/v1/frames", frame, headers)).status_code == 200
    assert stage.bus.readings().value.tolist() == [72.0]


@pytest.mark.clause("8.1")
async def test_an_implausible_value_is_stored_and_marked(stage):
    assert (await stage.post("/v1/readings", b'{"metric": "hr", "value": 900}')).status_code == 200
    assert has_mark(stage.bus.readings().quality, Mark.IMPLAUSIBLE).all()


async def test_other_paths_and_methods_are_problems(stage):
    assert_problem(await stage.post("/v1/nothing", b""), 404, "not-found")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(stage.app), base_url="http://door") as client:
        response = await client.get("/v1/readings")
    assert_problem(response, 405, "method-not-allowed")
    assert "POST" in response.headers["allow"]


async def test_a_stream_that_does_not_answer_is_503_and_says_when_to_retry(stage):
    stage.bus.failures = 10**6
    response = await stage.post("/v1/readings", HR_72)
    assert_problem(response, 503, "unavailable")
    assert int(response.headers["retry-after"]) > 0
    assert_problem(await stage.post("/v1/readings", b"{"), 503, "unavailable")  # a reject that could not be kept
    assert stage.bus.messages == []


@pytest.mark.clause("7.3")
async def test_a_door_that_can_hold_no_more_says_so_before_it_reads_the_body(stage, monkeypatch):
    monkeypatch.setattr(StreamIntake, "allowance", lambda intake, sender: 0)
    response = await stage.post("/v1/readings", b"{")
    assert_problem(response, 503, "unavailable")
    assert int(response.headers["retry-after"]) > 0
    assert stage.bus.messages == []


async def test_a_directory_that_does_not_answer_is_503(stage):
    stage.identities.is_down = True
    assert_problem(await stage.post("/v1/readings", HR_72), 503, "unavailable")


# ---- Idempotency-Key


KEYED = {**JSON, "Idempotency-Key": "order-17"}


@pytest.mark.clause("5.4c")
async def test_a_repeated_request_gets_the_same_answer_and_is_stored_once_across_a_restart(stage):
    first = await stage.post("/v1/readings", HR_72, KEYED)
    stage.clock.advance(3600)
    stage.restart()
    again = await stage.post("/v1/readings", HR_72, KEYED)
    assert again.json() == first.json() == {"accepted": 1, "receipt": "3-2"}
    assert len(stage.bus.readings()) == 1


async def test_another_body_under_the_key_is_409(stage):
    await stage.post("/v1/readings", HR_72, KEYED)
    assert_problem(await stage.post("/v1/readings", b'{"metric": "hr", "value": 73}', KEYED), 409, "conflict")
    assert len(stage.bus.readings()) == 1


async def test_a_reply_that_was_lost_half_way_doubles_nothing(stage):
    """The door dies after the frame was stored: the repeat finds the claim, not the receipt."""
    publish = stage.bus.publish

    async def die_at_the_end(subject, payload, message_id):
        if message_id.endswith("-done"):
            raise Unavailable("dead")
        return await publish(subject, payload, message_id)

    stage.bus.publish = die_at_the_end
    assert_problem(await stage.post("/v1/readings", HR_72, KEYED), 503, "unavailable")
    stage.bus.publish = publish
    stage.clock.advance(60)
    stage.restart()
    assert (await stage.post("/v1/readings", HR_72, KEYED)).json() == {"accepted": 1, "receipt": "3-2"}
    assert stage.bus.readings().time_us.tolist() == [NOW_US]


async def test_a_refused_request_does_not_use_up_its_key(stage):
    assert_problem(await stage.post("/v1/readings", b'{"metric": "mood", "value": 1}', KEYED), 422, "unknown-metric")
    assert (await stage.post("/v1/readings", HR_72, KEYED)).status_code == 200


async def test_keys_of_two_senders_do_not_meet(stage):
    frame = encode_frame(ReadingBatch.of(handle=7, metric=1, time_us=NOW_US, value=72.0, source=GATEWAY.handle),
                         source=100, sequence=1, arrival_us=0)  # fmt: skip
    await stage.post("/v1/readings", HR_72, KEYED)
    other = {"Authorization": "Bearer token-of-gateway", "Content-Type": FRAME_TYPE, "Idempotency-Key": "order-17"}
    assert (await stage.post("/v1/frames", frame, other)).status_code == 200


@pytest.mark.clause("5.4c")
async def test_a_repeated_request_is_stored_once_in_the_real_stream(bus: Bus):
    identities = DictIdentities()
    answers = []
    for _ in range(2):  # the second time by a door that started again
        intake = StreamIntake(bus, identities, SystemClock(), source=2)
        async with served(http_door(identities, intake, SystemClock(), StreamReceipts(bus))) as url:
            answers.append(
                await curl(
                    f"{url}/v1/readings",
                    "-H",
                    "Authorization: Bearer token-of-monitor",
                    "-H",
                    "Idempotency-Key: k",
                    "-H",
                    "Content-Type: application/json",
                    "-d",
                    HR_72.decode(),
                )
            )
    assert answers[0] == answers[1]
    assert answers[0][0] == 200
    assert (await bus.stream_state("READINGS")).messages == 3  # claim, frame, receipt


async def looked_up(stage, receipt, token="token-of-monitor"):
    transport = httpx.ASGITransport(stage.app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        return await client.get(f"/v1/receipts/{receipt}", headers={"Authorization": f"Bearer {token}"})


@pytest.mark.clause("5.4c")
async def test_a_receipt_tells_its_holder_where_the_reading_is(stage):
    receipt = (await stage.post("/v1/readings", HR_72)).json()["receipt"]
    found = (await looked_up(stage, receipt)).json()
    assert found == {"receipt": receipt, "kept_in": "stream", "stored": "2026-11-23T08:00:00Z", "readings": 1}
    stage.bus.messages.clear()  # the stream keeps it for two days only
    stage.bus.committed = 1
    assert (await looked_up(stage, receipt)).json() == {"receipt": receipt, "kept_in": "lake", "stored": None, "readings": None}


async def test_what_nobody_can_say_of_a_receipt_is_no_answer(stage):
    receipt = (await stage.post("/v1/readings", HR_72)).json()["receipt"]
    stage.bus.messages.clear()
    assert_problem(await looked_up(stage, receipt), 503, "unavailable")
    stage.bus.committed = 0  # it is neither in the stream nor in the lake
    assert_problem(await looked_up(stage, receipt), 404, "not-found")


@pytest.mark.parametrize("receipt", ["3-99", "5-1", "3-0", "abc", "3-1-1"])
async def test_a_receipt_that_was_never_given_is_not_found(stage, receipt):
    await stage.post("/v1/readings", HR_72)
    stage.bus.committed = 1
    assert_problem(await looked_up(stage, receipt), 404, "not-found")


async def test_a_receipt_of_somebody_else_is_not_found(stage):
    receipt = (await stage.post("/v1/readings", HR_72)).json()["receipt"]
    assert_problem(await looked_up(stage, receipt, "token-of-cuff"), 404, "not-found")
    assert_problem(await looked_up(stage, receipt, "wrong"), 401, "unauthenticated")


async def test_a_damaged_frame_is_not_vouched_for(stage):
    receipt = (await stage.post("/v1/readings", HR_72)).json()["receipt"]
    message = stage.bus.messages[0]
    stage.bus.messages[0] = replace(message, payload=message.payload[:-1] + bytes([message.payload[-1] ^ 1]))
    assert_problem(await looked_up(stage, receipt), 500, "integrity-violation")
