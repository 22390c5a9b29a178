"""The map of the API: every router, in the order of the documentation."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from api.routes import (
    access,
    alarms,
    associations,
    audit,
    bus_certificates,
    catalogue,
    credentials,
    devices,
    fleets,
    grants,
    hosts,
    isolations,
    life,
    live,
    log,
    maintenance,
    me,
    oauth,
    operation,
    patients,
    permissions,
    places,
    readings,
    recordings,
    rejects,
    risks,
    scenarios,
    security,
    security_events,
    sessions,
    traces,
    users,
)

ROUTERS: Final[tuple[APIRouter, ...]] = (
    places.router,
    credentials.router,
    devices.router,
    isolations.router,
    security.router,
    security_events.router,
    fleets.router,
    maintenance.router,
    patients.router,
    life.router,
    associations.router,
    catalogue.router,
    readings.router,
    recordings.router,
    alarms.router,
    live.router,
    rejects.router,
    scenarios.router,
    access.router,
    bus_certificates.router,
    log.router,
    audit.router,
    traces.router,
    users.router,
    grants.router,
    permissions.router,
    sessions.router,
    risks.router,
    me.router,
    hosts.router,
)
OPERATION: Final[APIRouter] = operation.router  # served at two places
TOKENS: Final[APIRouter] = oauth.router  # where clients of OAuth look for it
