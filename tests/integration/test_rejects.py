"""The rejects as operators read them, from the real stream and from the double."""

from __future__ import annotations

import pytest

from domain import subjects
from domain.errors import IntegrityViolation, NotFound
from runtime.bus import Bus
from runtime.clock import SystemClock
from runtime.intake import StreamIntake
from runtime.rejects import SCANNED, RejectFilter, RejectLog
from tests.doors import CUFF, MONITOR, DictIdentities, MemoryBus, clock

pytestmark = pytest.mark.integration


async def fill(bus, count=25):
    intake = StreamIntake(bus, DictIdentities(), SystemClock(), source=1)
    for n in range(count):
        await intake.reject(
            door="http" if n % 5 == 0 else "mqtt", sender=None if n % 7 == 6 else (MONITOR if n % 2 else CUFF),
            topic="v1/devices/me/readings", payload=str(n).encode(), reason="wrong-unit" if n % 3 == 0 else "malformed-json",
            detail=f"number {n}",
        )  # fmt: skip


def numbers(page):
    return [int(kept.reject.payload) for kept in page.rejects]


@pytest.mark.clause("8.1")
async def test_rejects_are_listed_newest_first_page_by_page(bus: Bus):
    await fill(bus)
    log = RejectLog(bus)
    pages, before = [], None
    while True:
        page = await log.page(before=before, limit=10)
        pages.append(numbers(page))
        before = page.next_before
        if before is None:
            break
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [n for page in pages for n in page] == list(range(24, -1, -1))


@pytest.mark.clause("8.1")
@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (RejectFilter(reason="wrong-unit"), lambda n: n % 3 == 0),
        (RejectFilter(door="http"), lambda n: n % 5 == 0),
        (RejectFilter(principal=MONITOR.name), lambda n: n % 2 and n % 7 != 6),
        (RejectFilter(hospital_ids=frozenset({"sz.h001"})), lambda n: n % 7 != 6),
        (RejectFilter(hospital_ids=frozenset()), lambda n: False),
        (RejectFilter(reason="wrong-unit", door="http"), lambda n: n % 15 == 0),
    ],
)
async def test_filters(wanted, chosen):
    bus = MemoryBus()
    await fill(bus)
    assert numbers(await RejectLog(bus).page(wanted)) == [n for n in range(24, -1, -1) if chosen(n)]


async def test_one_reject_with_its_reason_and_bytes(bus: Bus):
    await fill(bus, 3)
    kept = await RejectLog(bus).get(2)
    assert (kept.sequence, kept.reject.reason, kept.reject.payload) == (2, "malformed-json", b"1")
    with pytest.raises(NotFound, match="reject 99"):
        await RejectLog(bus).get(99)


async def test_no_rejects_is_an_empty_page(bus: Bus):
    page = await RejectLog(bus).page()
    assert (page.rejects, page.next_before) == ([], None)


async def test_a_rare_filter_looks_at_so_many_and_says_where_to_go_on():
    bus = MemoryBus()
    await StreamIntake(bus, DictIdentities(), clock(), source=1).reject(
        door="mqtt", sender=None, topic=None, payload=b"0", reason="rare", detail="the one"
    )
    await fill(bus, 1)
    bus.messages.extend([bus.messages[1]] * (SCANNED + 9))
    log = RejectLog(bus)
    page = await log.page(RejectFilter(reason="rare"))
    assert (page.rejects, page.next_before) == ([], 12)
    assert numbers(await log.page(RejectFilter(reason="rare"), before=page.next_before)) == [0]


async def test_a_record_that_cannot_be_read_back_is_named(bus: Bus):
    await bus.publish(subjects.reject(None), b"not a reject", "x")
    with pytest.raises(IntegrityViolation, match="reject 1"):
        await RejectLog(bus).page()
