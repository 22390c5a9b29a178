"""Scenarios: which there are, started, watched, and their reports. Clause 9.2b."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from api.asking import Asking
from api.errors import problems
from api.locators import in_region
from api.permissions import may
from api.routes.router import api_router
from api.services import Behind, ScenarioLauncher
from domain.errors import Conflict, InvalidInput, NotFound, Unavailable
from domain.permissions import Action

router = api_router(tags=["scenarios"])
ScenarioRead = Annotated[Asking, may(Action.SCENARIO_READ, at=in_region("scenarios"))]
ScenarioRun = Annotated[Asking, may(Action.SCENARIO_RUN, at=in_region("scenarios"))]
_MEDIA = {"html": "text/html; charset=utf-8", "json": "application/json"}


class RunIn(BaseModel):
    """Settings as on the command line: `fleet.devices`, `duration_s`, …"""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"settings": {"fleet.devices": "1000"}}]})
    settings: dict[str, str] = Field({}, max_length=50)


class RunStarted(BaseModel):
    run_id: str


async def _launcher(behind: Behind) -> ScenarioLauncher:
    if behind.services.scenarios is None:
        raise Unavailable("scenarios are not offered by this process")
    return behind.services.scenarios


Launcher = Annotated[ScenarioLauncher, Depends(_launcher)]


@router.get("/scenarios", responses=problems(Unavailable))
async def list_scenarios(_who: ScenarioRead, launcher: Launcher) -> list[dict[str, Any]]:
    """The stories that can be played."""
    return await asyncio.to_thread(launcher.list_scenarios)


@router.post("/scenarios/{name}/runs", status_code=202, responses=problems(NotFound, InvalidInput, Conflict, Unavailable))
async def start_run(_who: ScenarioRun, name: str, body: RunIn, launcher: Launcher) -> RunStarted:
    """Play a scenario against this platform, in a process of its own. One at a time."""
    return RunStarted(run_id=await launcher.start(name, body.settings))


@router.get("/scenario-runs", responses=problems(Unavailable))
async def list_runs(_who: ScenarioRead, launcher: Launcher) -> list[dict[str, Any]]:
    """Runs, the newest first."""
    return await asyncio.to_thread(launcher.list_runs)


@router.get("/scenario-runs/{run_id}", responses=problems(NotFound, Unavailable))
async def show_run(_who: ScenarioRead, run_id: str, launcher: Launcher) -> dict[str, Any]:
    """How far a run has come, and its verdicts once it has ended."""
    return await asyncio.to_thread(launcher.progress, run_id)


@router.get(
    "/scenario-runs/{run_id}/report",
    response_class=Response,
    responses={200: {"content": {"text/html": {}, "application/json": {}}}, **problems(NotFound, Unavailable)},
)
async def show_report(
    _who: ScenarioRead,
    run_id: str,
    launcher: Launcher,
    format: Literal["html", "json"] = "html",  # noqa: A002
) -> Response:
    """The report of a run that has ended."""
    return Response(await asyncio.to_thread(launcher.report, run_id, format), media_type=_MEDIA[format])
