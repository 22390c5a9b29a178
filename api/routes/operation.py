"""For those who run the platform: is it alive, is it ready, and its numbers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from api.asking import Asking
from api.locators import in_region
from api.permissions import may
from api.services import Behind
from api.telemetry import CONTENT_TYPE
from api.vitals import check_all, refresh_figures
from domain.alarms import INTENDED_USE
from domain.messages import StorageLevel
from domain.permissions import Action

router = APIRouter(tags=["operation"])
OperationRead = Annotated[Asking, may(Action.OPERATION_READ, at=in_region("operation"))]


class PlaceOut(BaseModel):
    name: str = Field(description="What is kept there: stream, lake, snapshots, audit, log, database.")
    path: str
    level: StorageLevel = Field(description="low: no more readings are taken; full: nothing is, or it cannot be written.")
    free_bytes: int
    says: str


class Health(BaseModel):
    status: str
    region: str
    intended_use: str
    storage: list[PlaceOut] = Field(description="The platform's disks; none when nothing was said of them lately.")


class CheckOut(BaseModel):
    name: str
    ok: bool
    detail: str


class Readiness(BaseModel):
    ready: bool
    checks: list[CheckOut]


@router.get("/health")
async def health(_who: OperationRead, behind: Behind) -> Health:
    """The process is alive, and how its disks are. Of all else that it stands on: see `/ready`."""
    places = [
        PlaceOut(name=place.name, path=place.path, level=place.level, free_bytes=place.free_bytes, says=place.says)
        for place in behind.storage.places()
    ]
    return Health(status="alive", region=behind.services.region_id, intended_use=INTENDED_USE, storage=places)


@router.get("/ready", responses={503: {"model": Readiness, "description": "Not ready; the failing checks say why."}})
async def ready(_who: OperationRead, behind: Behind, response: Response) -> Readiness:
    """Bus, database and lake answer, every shard is held, no shard lags, and there is room on disk."""
    checks = [CheckOut(name=check.name, ok=check.ok, detail=check.detail) for check in await check_all(behind)]
    is_ready = all(check.ok for check in checks)
    response.status_code = 200 if is_ready else 503
    return Readiness(ready=is_ready, checks=checks)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(_who: OperationRead, behind: Behind) -> Response:
    """The platform's numbers for Prometheus (text format)."""
    await refresh_figures(behind)
    return Response(await behind.lanes.codec(behind.telemetry.text), media_type=CONTENT_TYPE)
