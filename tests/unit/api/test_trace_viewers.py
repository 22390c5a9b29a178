"""Which answers and streams could have shown a reading, as far as the access log says."""

from __future__ import annotations

import pytest

from api.schemas import traces
from api.tracing.viewers import Subject, _concerns
from domain.accesses import Access, Interaction, audit_event
from domain.audit_reading import answered
from domain.permissions import Action
from domain.principals import Kind, Place, Principal

pytestmark = pytest.mark.clause("9.2a")
KEY, OTHER = "a" * 32, "b" * 32
SUBJECT = Subject("sz.h001/mon-1", 7, Place("sz", "futian", "sz.h001", "icu"), frozenset({KEY}))


def access(
    route: str, query: str = "", *, status: int = 200, place: str | None = None, patients: tuple[str, ...] = ()
) -> bytes:
    is_search = "{" not in route
    made = Access(
        id="a-1", at_us=1_795_420_800_000_000, request_id="r-1", principal=Principal(Kind.USER, "u-1", "li"),
        action=Action.READING_READ, interaction=Interaction.SEARCH if is_search else Interaction.READ, route=f"GET {route}",
        path=route.replace("{hospital_id}", "sz.h001").replace("{device_id}", "mon-1"), status=status, query=query,
        place=place, patients=patients,
    )  # fmt: skip
    return audit_event(made, "sz")


@pytest.mark.parametrize(
    ("route", "query", "more", "ought"),
    [
        ("/readings", "device=sz.h001/mon-1", {}, True),
        ("/readings", "device=sz.h001/mon-2", {}, False),
        ("/readings", "device=sz.h001/mon-2&device=sz.h001/mon-1", {}, True),
        ("/readings", "handle=7", {}, True),
        ("/readings", "handle=77", {}, False),
        ("/readings", "hospital=sz.h001", {}, True),
        ("/readings", "hospital=sz.h002", {}, False),
        ("/readings", "hospital=sz.h001&ward=icu", {}, True),
        ("/readings", "hospital=sz.h001&ward=w02", {}, False),
        ("/readings", "hospital=sz.h001&ward=w02", {"patients": (KEY,)}, True),
        ("/readings", f"patient={OTHER}", {"patients": (OTHER,)}, False),
        ("/live/readings", "hospital=sz.h001&ward=icu", {}, True),
        ("/devices/{hospital_id}/{device_id}/state", "", {"place": "sz.h001/icu"}, True),
        ("/alarms/{alarm_id}", "", {"place": "sz.h001/icu"}, False),
        ("/alarms", "", {}, True),  # a list of whatever they may see
        ("/alarms", "", {"place": "sz.h002"}, False),
    ],
)  # fmt: skip
def test_what_was_asked_for_says_whether_it_could_hold_the_reading(
    route: str, query: str, more: dict[str, object], *, ought: bool
) -> None:
    told = answered(access(route, query, **more))  # type: ignore[arg-type]
    assert told is not None
    assert (told.who, told.action, told.route) == ("li", "reading.read", f"GET {route}")
    assert _concerns(told, SUBJECT) is ought


def test_who_was_refused_saw_nothing() -> None:
    assert answered(access("/readings", "device=sz.h001/mon-1", status=403)) is None


@pytest.mark.parametrize(
    "event", [b"", b"{}", b"[]", b"\xff", b'{"outcome": "0", "entity": [{"role": {"code": "24"}, "query": "%"}]}']
)
def test_what_is_none_of_ours_tells_of_no_answer(event: bytes) -> None:
    assert answered(event) is None


@pytest.mark.clause("9.3c")
def test_no_model_of_a_trace_has_a_field_for_a_value_a_name_or_a_patient() -> None:
    """Facts of steps are named where they are made: `api.tracing.steps`."""
    models = [model for model in vars(traces).values() if isinstance(model, type) and hasattr(model, "model_fields")]
    fields = {name for model in models if model.__module__ == traces.__name__ for name in model.model_fields}
    assert len(fields) > 40
    assert fields.isdisjoint(
        {"value", "raw_value", "limit", "text", "detail", "name", "patient", "patient_key", "patients", "payload"}
    )
