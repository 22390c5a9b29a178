"""What can be measured, and by what kinds of device: the metric table and the thing models."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query

from api.asking import Asking
from api.errors import problems
from api.locators import in_region
from api.permissions import may
from api.routes.router import api_router
from api.schemas.catalogue import MetricOut, ThingModelOut, thing_description
from domain.errors import NotFound
from domain.metrics import BY_CODE, METRICS, Group
from domain.permissions import Action
from domain.thing_catalogue import THING_MODELS, thing_model

router = api_router(tags=["catalogue"])
CatalogueRead = Annotated[Asking, may(Action.CATALOGUE_READ, at=in_region("catalogue"))]


@router.get("/metrics-table")
async def list_metrics(_who: CatalogueRead, group: Annotated[Group | None, Query()] = None) -> list[MetricOut]:
    """The metric table of the platform, or one group of it."""
    return [MetricOut.of(metric) for metric in METRICS if group in (None, metric.group)]


@router.get("/metrics-table/{code}", responses=problems(NotFound))
async def show_metric(_who: CatalogueRead, code: str) -> MetricOut:
    """One metric."""
    if code not in BY_CODE:
        raise NotFound(f"metric {code!r} is unknown: expected a code of the metric table, such as 'heart_rate'")
    return MetricOut.of(BY_CODE[code])


@router.get("/thing-models")
async def list_thing_models(_who: CatalogueRead) -> list[ThingModelOut]:
    """The kinds of device the platform knows."""
    return [ThingModelOut.of(model) for model in THING_MODELS]


@router.get("/thing-models/{model_id}", responses=problems(NotFound))
async def show_thing_model(_who: CatalogueRead, model_id: str) -> ThingModelOut:
    """One thing model: `monitor@1`, or `monitor` for its latest version."""
    return ThingModelOut.of(thing_model(model_id))


@router.get("/thing-models/{model_id}/thing-description", responses=problems(NotFound))
async def export_thing_model(_who: CatalogueRead, model_id: str) -> dict[str, Any]:
    """The model as a W3C Web of Things Thing Model."""
    return thing_description(thing_model(model_id))
