"""What an operator orders of a platform under load and faults; each returns once it is carried out, however often it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx

from domain.errors import Unavailable
from tests.faults.stand import Stand

_LOOK_S: Final = 0.2
_LONGEST_S: Final = 90.0
_ANSWER_S: Final = 30.0
_SHARDS: Final = 4  # of `tests.running_platform`
_HOSPITALS: Final = tuple(f"sz.fault{number}" for number in range(4))  # of `tests.faults.senders`


async def swap_hosts(stand: Stand, pick: float) -> None:
    """One host more; when it runs, one of the others leaves."""
    async with asyncio.timeout(_LONGEST_S):
        kept = (await hosts(stand))["wanted"]
        while (view := await hosts(stand))["wanted"] <= kept:
            await attempt(stand, "POST", "/hosts")
        chosen = ""
        while view["wanted"] > kept or any(host["state"] != "working" for host in view["hosts"]):
            names = sorted(host["name"] for host in view["hosts"])  # none while Ray is down
            if view["wanted"] > kept and names:  # else the order stands; a platform that was started again has forgotten it
                chosen = chosen if chosen in names else names[int(pick * len(names))]
                await attempt(stand, "DELETE", f"/hosts/{chosen}")
            await asyncio.sleep(_LOOK_S)
            view = await hosts(stand)


async def hand_over(stand: Stand, pick: float) -> None:
    """A hospital that is not on its way already goes to the next shard; returns when it is there."""
    first = int(pick * len(_HOSPITALS))
    async with asyncio.timeout(_LONGEST_S):
        for hospital in (*_HOSPITALS[first:], *_HOSPITALS[:first]):
            shard = ((await _answer(stand, f"/hospitals/{hospital}"))["shard"] + 1) % _SHARDS
            answer = None
            while answer is None or answer.is_server_error:
                answer = await attempt(stand, "POST", f"/hospitals/{hospital}/hand-over", {"shard": shard})
            if answer.is_success:
                break
        while answer.is_success and (await _answer(stand, f"/hospitals/{hospital}"))["shard"] != shard:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)


async def place(stand: Stand, pick: float) -> None:
    """The hospital that has a host of its own is shared again; where none has, one gets it. Returns when it is so."""
    first = int(pick * len(_HOSPITALS))
    async with asyncio.timeout(_LONGEST_S):
        states = [await placement(stand, hospital) for hospital in (*_HOSPITALS[first:], *_HOSPITALS[:first])]
        state = next((one for one in states if one["placement"] == "dedicated"), states[0])
        hospital, wanted = state["hospital_id"], "shared" if state["placement"] == "dedicated" else "dedicated"
        answer = None
        while answer is None or answer.is_server_error:
            answer = await attempt(stand, "PUT", f"/hospitals/{hospital}/placement", {"placement": wanted})
        while answer.is_success and not is_placed(await placement(stand, hospital)):  # noqa: ASYNC110 (else it came just now)
            await asyncio.sleep(_LOOK_S)


async def placement(stand: Stand, hospital: str) -> dict[str, Any]:
    return await _answer(stand, f"/hospitals/{hospital}/placement")


def is_placed(state: dict[str, Any]) -> bool:
    is_there = state["to_shard"] is None and state["host"] is not None
    return is_there and (state["is_alone"] or state["placement"] == "shared")


ORDERS: Final[dict[str, Callable[[Stand, float], Awaitable[None]]]] = {
    "swap-hosts": swap_hosts, "hand-over": hand_over, "place": place,
}  # fmt: skip


async def hosts(stand: Stand) -> dict[str, Any]:
    return await _answer(stand, "/hosts")


async def _answer(stand: Stand, path: str) -> dict[str, Any]:
    while True:
        answer = await attempt(stand, "GET", path)
        if answer is not None and answer.is_success:
            return dict(answer.json())
        await asyncio.sleep(_LOOK_S)


async def attempt(stand: Stand, method: str, path: str, body: Any = None) -> httpx.Response | None:
    """The answer, or None while nobody answers."""
    try:
        headers = {"Authorization": f"Bearer {stand.running.token}", "X-Reason": "fault run"}
        async with httpx.AsyncClient(timeout=_ANSWER_S, trust_env=False, headers=headers) as http:
            return await http.request(method, f"{stand.running.connection.api_url}/api/v1{path}", json=body)
    except (httpx.HTTPError, Unavailable):
        return None
