"""A cursor's checksum is no secret, so anybody can make one with whatever key: it is refused, or is a place like any other."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from itertools import product
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest
import pytest_asyncio
from fastapi import FastAPI
from sqlalchemy import Engine

from api.app import create_app
from api.paging import encode_cursor
from api.paths import PREFIX
from domain.instants import from_us
from domain.log_entries import LogRecord
from runtime.clock import ManualClock
from runtime.large_questions import LargeReadings
from runtime.log_events import Received
from runtime.log_keeper import LogKeeper
from runtime.log_signing import LogSigner
from runtime.log_store import LogReader
from runtime.sealing import Sealer
from runtime.soft_keys import SoftKeys
from tests.sql_fixtures import NOW_US, copy_of
from tests.unit.api.conftest import client_of, services_of
from tests.unit.api.house import RULES
from tests.unit.api.small_platform import SmallPlatform
from tests.unit.api.two_hospitals import RejectsBus
from tests.unit.api.wards import Wards

START: Final = from_us(NOW_US - 10**8).isoformat().replace("+00:00", "Z")
NEEDED: Final[dict[str, dict[str, Any]]] = {  # what a list does not answer without
    "readings/latest": {"hospital": "sz.h001"},
    "readings/buckets": {"device": "sz.h001/mon-1", "from": START, "bucket_s": 60},
    "readings/search": {"q": "mon"},
    "aggregates/fleet": {"from": START, "bucket_s": 3600},
    "freshness": {"hospital": "sz.h001"},
}
PARTS: Final = ("a", 1, -1, 2**63 - 1)
KEYS: Final = [
    [], ["a"], [None], [10**60], [2**63], [-(2**63) - 1], [1, 2, 3, 4], [{}], [[1]], ["\0"], ["a\0"], [1, "\0"], [1.0], [True],
    *([part] * count for part, count in product(PARTS, range(1, 7))), [1, "a"], ["a", 1],
    [2**32 - 1, 2**16 - 1, 2**8 - 1, 2**63 - 1, 2**31 - 1], [0, 0, 0, -(2**63), 0],
]  # fmt: skip
RAW: Final = (b"[NaN]", b"[Infinity]", b"[1e400]", b"[1e3]", b'["\\ud800"]', b'"a"', b"1", b"{}", b"[" * 5_000)


class _Platform(SmallPlatform, RejectsBus):
    """With rejects."""


@pytest.fixture(scope="module")
def database(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory, sealer: Sealer) -> Iterator[Engine]:
    with copy_of(sqlite_template, tmp_path_factory.mktemp("lists"), sealer) as engine:
        yield engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lists(database: Engine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FastAPI]:
    folder = tmp_path_factory.mktemp("folders")
    wards = Wards(database, _Platform(folder, database), ManualClock(NOW_US + 10**7))
    keeper = LogKeeper.open(folder / "audit", LogSigner(SoftKeys(folder / "keys"), "vitalgrid/sz"), lambda: os.urandom(32))
    records = [LogRecord(f"t-{n}", n, "test", n, msgspec.Raw(b'"entry"')) for n in range(5)]
    keeper.take([Received(record.n + 1, record) for record in records])
    keeper.close()
    made = create_app(services_of(
        engine=database, clock=wards.clock, bus=wards.platform, lake=wards.platform.lake, readings=wards.platform.store,
        large_readings=LargeReadings(wards.platform), log=LogReader(folder / "audit"), sign_in_rules=RULES,
    ), background=False)  # fmt: skip
    made.state.patient_key = wards.keys["p1"]
    async with made.router.lifespan_context(made):
        yield made


def paged(app: FastAPI) -> list[str]:
    """The paths of all lists that take a cursor."""
    return [
        path.removeprefix(f"{PREFIX}/")
        for path, operations in app.openapi()["paths"].items()
        if any(one["name"] == "cursor" for one in operations.get("get", {}).get("parameters", ()))
    ]


LISTS: Final = paged(create_app(services_of(), background=False))


def test_there_are_lists() -> None:
    assert {"devices", "readings", "security/inventory", "audit/events"} <= set(LISTS)
    assert set(NEEDED) < set(LISTS)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.clause("9.1b")
@pytest.mark.parametrize("name", LISTS)
async def test_no_key_in_a_cursor_is_an_error_of_ours(lists: FastAPI, name: str) -> None:
    needed = NEEDED.get(name, {})
    path = name.format(hospital_id="sz.h001", device_id="mon-1", patient_key=lists.state.patient_key)
    filters = f"{PREFIX}/{path}?{sorted((key, str(value)) for key, value in needed.items())}"
    cursors = {repr(key): encode_cursor(key, filters) for key in KEYS}
    cursors |= {repr(raw[:20]): encode_cursor(msgspec.Raw(raw), filters) for raw in RAW}
    async with client_of(lists, under=f"{PREFIX}/") as client:
        asked = {key: await client.get(path, params={**needed, "cursor": cursor}) for key, cursor in cursors.items()}
        without = await client.get(path, params=needed)
    assert without.status_code == 200, without.text
    wrong = {key: answer.text for key, answer in asked.items() if not _is_told_so(answer)}
    assert wrong == {}
    taken = [key for key, answer in asked.items() if answer.status_code == 200]
    assert taken, "no key of the right parts was tried"
    assert not {"[]", "[None]", "[1.0]", "[True]", "['\\x00']", f"[{2**63}]"} & set(taken)


def _is_told_so(answer: httpx.Response) -> bool:
    return answer.status_code == 200 or (answer.status_code == 422 and "cursor" in answer.json()["detail"])
