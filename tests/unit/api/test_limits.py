"""Limits of requests: per address for what is not believed, per principal for what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import AsyncMock

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from api.app import create_app
from api.auth import Authentication
from api.limits import AddressLimit, PrincipalLimit, RequestLimits
from api.proxies import BehindProxies, TrustedProxies
from api.scope_keys import BELIEVED_KEY, CALLER_KEY, END_TURN_KEY, GONE_KEY
from api.turns import Turns
from domain.principals import Caller
from runtime.setting_sections import LimitSettings
from tests.callers import ADMINISTRATOR, NOBODY, TOKEN, KnownCallers
from tests.unit.api.conftest import client_of, services_of
from tests.waiting import until

pytestmark = pytest.mark.clause("9.1b")
FEW = RequestLimits(failures=3, failures_a_s=0.1, cost=100, cost_a_s=0.1, at_once=3, large_at_once=2, live_streams=2)


@pytest.fixture
def app() -> Iterator[object]:
    return create_app(services_of(), background=False, limits=FEW)


async def statuses(client: httpx.AsyncClient, token: str, count: int) -> list[int]:
    return [(await client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"})).status_code for _ in range(count)]


async def test_an_address_that_shows_unknown_tokens_waits_and_a_token_that_was_good_here_does_not(app) -> None:
    async with app.router.lifespan_context(app), client_of(app, None) as client:
        assert await statuses(client, TOKEN, 10) == [200] * 10
        assert await statuses(client, "guess", 5) == [401, 401, 401, 429, 429]
        assert await statuses(client, TOKEN, 10) == [200] * 10
        refused = await client.get("/api/v1/me", headers={"Authorization": "Bearer another"})
    assert refused.json()["code"] == "too-many-requests"
    assert 1 <= int(refused.headers["Retry-After"]) <= 10


async def test_the_server_is_told_of_a_caller_before_the_request_is_answered() -> None:
    order: list[str] = []

    async def working(scope: Scope, receive: Receive, send: Send) -> None:
        order.append("answered")

    guarded = Authentication(working, KnownCallers({TOKEN: NOBODY}), "vitalgrid")
    headers = [(b"authorization", f"Bearer {TOKEN}".encode())]
    scope = {"type": "http", "method": "GET", "path": "/api/v1/me", "headers": headers}
    await guarded(scope | {BELIEVED_KEY: lambda: order.append("believed")}, AsyncMock(), AsyncMock())
    assert order == ["believed", "answered"]


async def test_guesses_that_come_together_are_all_counted(app) -> None:
    async with app.router.lifespan_context(app), client_of(app, None) as client:
        answers = await asyncio.gather(*(statuses(client, f"guess-{number}", 1) for number in range(20)))
    assert sorted(status for (status,) in answers) == [401] * 3 + [429] * 17


async def test_good_tokens_that_come_together_for_the_first_time_are_all_answered() -> None:
    """A ward behind one address whose live streams begin anew."""

    async def working(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        scope[CALLER_KEY] = NOBODY
        await PlainTextResponse("done")(scope, receive, send)

    async def status(number: int) -> int:
        send = AsyncMock()
        headers = [(b"authorization", b"Bearer %d" % number)]
        await limited({"type": "http", "path": "/api/v1/me", "client": ("10.0.0.1", 1), "headers": headers}, None, send)
        return send.call_args_list[0].args[0]["status"]

    limited = AddressLimit(working, FEW)
    assert await asyncio.gather(*(status(number) for number in range(2_000))) == [200] * 2_000


@pytest.mark.parametrize(
    ("refusal", "expected"), [(401, [401] * 4 + [429] * 2), (403, [403] * 6)], ids=["revoked", "used by another site's page"]
)
async def test_a_token_that_was_good_is_measured_like_any_other_once_it_is_nobodys(refusal: int, expected: list[int]) -> None:
    """What passed at first is not charged; and whose browser another site makes use of pays nothing for that."""
    answered = 200

    async def working(scope: Scope, receive: Receive, send: Send) -> None:
        if answered == 200:
            scope[CALLER_KEY] = NOBODY
        await PlainTextResponse("done", answered)(scope, receive, send)

    async def status() -> int:
        send = AsyncMock()
        headers = [(b"authorization", b"Bearer token")]
        await limited({"type": "http", "path": "/api/v1/me", "client": ("10.0.0.1", 1), "headers": headers}, None, send)
        return int(send.call_args_list[0].args[0]["status"])

    limited = AddressLimit(working, FEW)
    assert [await status() for _ in range(5)] == [200] * 5
    answered = refusal
    assert [await status() for _ in range(6)] == expected


async def test_who_has_a_network_of_addresses_guesses_no_more_than_one_address() -> None:
    async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("who?", 401)(scope, receive, send)

    async def status(number: int) -> int:
        send = AsyncMock()
        headers = [(b"authorization", b"Bearer %d" % number)]
        scope = {"type": "http", "path": "/api/v1/me", "client": (f"2001:db8::{number}", 1), "headers": headers}
        await limited({"method": "GET", **scope}, None, send)
        return send.call_args_list[0].args[0]["status"]

    limited = AddressLimit(unknown, FEW)
    assert [await status(number) for number in range(10)] == [401] * 3 + [429] * 7


async def test_a_principal_whose_requests_cost_too_much_waits(app) -> None:
    async with app.router.lifespan_context(app), client_of(app) as client:
        found = [(await client.get("/api/v1/me")).status_code for _ in range(101)]
        assert found == [200] * 100 + [429]
        assert (await client.get("/health")).status_code == 200


async def test_few_large_requests_run_for_one_at_once_and_others_are_not_held_up() -> None:
    may_answer = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await may_answer.wait()
        await PlainTextResponse("done")(scope, receive, send)

    def scope_of(caller: Caller, path: str) -> Scope:
        return {"type": "http", "method": "GET", "path": path, "headers": [], CALLER_KEY: caller}

    async def status(scope: Scope) -> int:
        sent = []

        async def send(message):
            sent.append(message)

        await limited(scope, None, send)
        return sent[0]["status"]

    limited = PrincipalLimit(slow, FEW)
    large = [asyncio.create_task(status(scope_of(ADMINISTRATOR, "/api/v1/readings/search"))) for _ in range(3)]
    small = asyncio.create_task(status(scope_of(ADMINISTRATOR, "/api/v1/me")))
    await asyncio.sleep(0)
    assert await large[2] == 429
    may_answer.set()
    assert [await large[0], await large[1], await small] == [200, 200, 200]
    assert await status(scope_of(ADMINISTRATOR, "/api/v1/readings/search")) == 200


@pytest.mark.parametrize("rounds", [0, 1, 5])
async def test_what_one_principal_asks_waits_behind_few_of_another(rounds: int) -> None:
    """A hundred requests of one are there before that of another, which takes several rounds of the event loop."""
    order = []

    async def working(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(5 if scope[CALLER_KEY] is NOBODY else rounds):
            await asyncio.sleep(0)
        order.append(scope[CALLER_KEY].principal.id)
        await PlainTextResponse("done")(scope, receive, send)

    async def ask(caller: Caller) -> None:
        scope = {"type": "http", "method": "GET", "path": "/api/v1/me", "headers": [], CALLER_KEY: caller}
        await limited(scope, None, AsyncMock())

    limited = PrincipalLimit(working, FEW)
    greedy = [asyncio.create_task(ask(ADMINISTRATOR)) for _ in range(100)]
    await asyncio.sleep(0)
    await asyncio.gather(asyncio.create_task(ask(NOBODY)), *greedy)
    assert order.index(NOBODY.principal.id) <= FEW.at_once + 7
    assert len(order) == 101


async def test_nothing_is_done_for_whoever_left_while_it_waited() -> None:
    done = []
    may_answer = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await may_answer.wait()
        done.append(scope["number"])
        await PlainTextResponse("done")(scope, receive, send)

    gone: set[int] = set()
    limited = PrincipalLimit(slow, FEW)

    async def ask(number: int) -> None:
        scope = {"type": "http", "method": "GET", "path": "/api/v1/me", "headers": [], CALLER_KEY: ADMINISTRATOR}
        await limited({**scope, "number": number, GONE_KEY: lambda: number in gone}, None, AsyncMock())

    asked = [asyncio.create_task(ask(number)) for number in range(FEW.at_once + 3)]
    await asyncio.sleep(0)
    gone |= {0, FEW.at_once, FEW.at_once + 1}  # the first is worked on already
    may_answer.set()
    await asyncio.gather(*asked)
    assert sorted(done) == [*range(FEW.at_once), FEW.at_once + 2]


class LiveStreams:
    """Requests for live streams behind a limit; each goes on until it is left."""

    def __init__(self, limits: RequestLimits) -> None:
        self._limited = PrincipalLimit(self._going_on, limits)
        self._left: dict[asyncio.Task[None], asyncio.Event] = {}

    async def _going_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await scope["left"].wait()

    async def ask(self, path: str = "/api/v1/live/alarms", caller: Caller = ADMINISTRATOR) -> tuple[int, bytes, asyncio.Task]:
        """The status of its answer, what it says of Retry-After, and the request, which may go on."""
        begun = asyncio.get_running_loop().create_future()

        async def send(message) -> None:
            if message["type"] == "http.response.start":
                begun.set_result((message["status"], dict(message["headers"]).get(b"retry-after", b"")))

        left = asyncio.Event()
        scope = {"type": "http", "method": "GET", "path": path, "headers": [], CALLER_KEY: caller, "left": left}
        task = asyncio.create_task(self._limited(scope, None, send))
        self._left[task] = left
        async with asyncio.timeout(10):
            return (*await begun, task)

    async def leave(self, task: asyncio.Task[None]) -> None:
        self._left[task].set()
        await task


async def test_so_many_live_streams_of_one_are_open_of_each_kind_and_those_of_others_beside_them() -> None:
    streams = LiveStreams(FEW)
    first = [await streams.ask() for _ in range(2)]
    refused = await streams.ask()
    others = [await streams.ask("/api/v1/live/readings"), await streams.ask(caller=NOBODY)]
    assert [status for status, *_ in (*first, refused, *others)] == [200, 200, 429, 200, 200]
    assert int(refused[1]) >= 1
    await streams.leave(first[0][2])
    assert (await streams.ask())[0] == 200
    assert (await streams.ask())[0] == 429


async def test_live_streams_that_begin_again_and_again_are_charged_and_nothing_else_of_their_caller_is() -> None:
    streams = LiveStreams(FEW)
    found = []
    for _ in range(7):
        status, retry_after, task = await streams.ask()
        found.append((status, retry_after != b""))
        await streams.leave(task)
    assert found == [(200, False)] * 5 + [(429, True)] * 2
    assert (await streams.ask("/api/v1/me"))[0] == 200
    assert (await streams.ask(caller=NOBODY))[0] == 200


async def test_live_streams_that_wait_for_others_to_catch_up_keep_none_from_beginning() -> None:
    waiting, caught_up = 0, asyncio.Event()

    async def catching_up(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal waiting
        scope[END_TURN_KEY]()
        waiting += 1
        await caught_up.wait()
        await PlainTextResponse("done")(scope, receive, send)

    limited = PrincipalLimit(catching_up, replace(FEW, live_streams=9, cost=1_000))
    scope = {"type": "http", "method": "GET", "path": "/api/v1/live/alarms", "headers": [], CALLER_KEY: ADMINISTRATOR}
    asked = [asyncio.create_task(limited(dict(scope), None, AsyncMock())) for _ in range(9)]
    await until(lambda: waiting == 9)
    caught_up.set()
    await asyncio.gather(*asked)


async def test_a_live_stream_holds_no_turn_while_it_goes_on() -> None:
    streams = LiveStreams(replace(FEW, live_streams=9, cost=1_000))
    assert [(await streams.ask())[0] for _ in range(9)] == [200] * 9  # two turns
    assert (await streams.ask("/api/v1/me"))[0] == 200


async def test_turns_of_those_who_left_go_on_to_the_next() -> None:
    turns = Turns(1)
    await turns.take("a")
    waiting = [asyncio.create_task(turns.take("a")) for _ in range(4)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    turns.give_back("a")  # called: the first who still waits
    waiting[1].cancel()
    async with asyncio.timeout(5):
        await waiting[2]
        turns.give_back("a")
        await waiting[3]
    turns.give_back("a")
    async with asyncio.timeout(5):
        await turns.take("a")


async def test_who_left_waits_no_more() -> None:
    turns = Turns(1)
    await turns.take("a")
    waiting = [asyncio.create_task(turns.take("a")) for _ in range(3)]
    await asyncio.sleep(0)
    assert turns.waiting("a") == 3
    for task in waiting[:2]:
        task.cancel()
    await asyncio.wait(waiting[:2])
    assert turns.waiting("a") == 1
    turns.give_back("a")
    async with asyncio.timeout(5):
        await waiting[2]


async def test_who_reads_its_answer_slowly_holds_up_nobody() -> None:
    limited = PrincipalLimit(PlainTextResponse("done"), FEW)
    may_read = asyncio.Event()

    async def slow(message):
        await may_read.wait()

    scope = {"type": "http", "method": "GET", "path": "/api/v1/me", "headers": [], CALLER_KEY: ADMINISTRATOR}
    reading = [asyncio.create_task(limited(dict(scope), None, slow)) for _ in range(20)]
    async with asyncio.timeout(10):
        await limited(dict(scope), None, AsyncMock())
    may_read.set()
    await asyncio.gather(*reading)


@pytest.mark.parametrize(
    ("peer", "forwarded", "origin"),
    [
        ("203.0.113.1", ["198.51.100.7"], "203.0.113.1"),  # no proxy of ours: what it says is nothing to us
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.2.3.4, 198.51.100.7"], "198.51.100.7"),  # the client wrote the first
        ("10.0.0.1", ["1.2.3.4", "198.51.100.7 , 10.0.0.2"], "198.51.100.7"),  # through two of ours
        ("10.0.0.1", ["1.2.3.4, nobody"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7:51234"], "198.51.100.7"),
        ("10.0.0.1", ["[2001:db8::7]:51234"], "2001:db8::7"),
        ("::ffff:10.0.0.1", ["2001:db8::7"], "2001:db8::7"),
        ("fd00::1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["10.0.0.9"], "10.0.0.9"),
        ("10.0.0.1", [""], "10.0.0.1"),
    ],
)
async def test_a_proxy_is_believed_when_it_is_ours_and_no_further(peer: str, forwarded: list[str], origin: str) -> None:
    told = []

    async def tell(scope: Scope, receive: Receive, send: Send) -> None:
        told.append(scope["client"][0])

    settings = LimitSettings.model_validate({"trusted_proxies": ["10.0.0.0/8", "fd00::/8"]})
    scope = {"type": "http", "client": (peer, 1), "headers": [(b"x-forwarded-for", value.encode()) for value in forwarded]}
    await BehindProxies(tell, TrustedProxies(settings.trusted_proxies))(scope, None, None)
    assert told == [origin]


async def test_a_packed_body_is_refused_unread(app) -> None:
    async with app.router.lifespan_context(app), client_of(app) as client:
        refused = await client.post("/api/v1/hospitals", content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported-encoding")
