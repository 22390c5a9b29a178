"""The map of the API: every router, in the order of the documentation."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from api.routes import catalogue, live, operation

ROUTERS: Final[tuple[APIRouter, ...]] = (
    catalogue.router,
    live.router,
    operation.router,
)
OPERATION: Final[APIRouter] = operation.router
