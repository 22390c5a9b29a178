"""Interactive documentation that needs no network: the assets are served by us, and the pages name no other host."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import fastapi_offline
import msgspec
from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, Response
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.staticfiles import StaticFiles

from api.errors import PROBLEM_SCHEMA
from api.permissions import PERMISSION, permissions_of

_ASSETS_DIR: Final = Path(fastapi_offline.__file__).parent / "static"
ASSETS_URL: Final = "/docs-assets"
OPENAPI_URL: Final = "/openapi.json"
_SECURITY_SCHEMES: Final[dict[str, Any]] = {
    "token": {"type": "http", "scheme": "bearer", "description": "An API token."},
    "password": {
        "type": "oauth2",
        "flows": {"password": {"tokenUrl": "/oauth/token", "refreshUrl": "/oauth/token", "scopes": {}}},
        "description": "A user's name and password: the session that begins ends the one before.",
    },
    "basic": {"type": "http", "scheme": "basic", "description": "Any user name, the API token as password."},
}


def install(app: FastAPI) -> None:
    """Serve /docs and /redoc from local assets, and complete the OpenAPI document."""
    app.mount(ASSETS_URL, StaticFiles(directory=_ASSETS_DIR), name="docs-assets")
    app.add_api_route(OPENAPI_URL, _document_of(app), include_in_schema=False)
    app.add_api_route("/docs", _swagger_page, include_in_schema=False)
    app.add_api_route("/redoc", _redoc_page, include_in_schema=False)
    app.openapi = _described(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _document_of(app: FastAPI) -> Callable[[], Awaitable[Response]]:
    """Serves the OpenAPI document as it is sent: half a megabyte, put into bytes once."""
    made: list[bytes] = []
    making = asyncio.Lock()

    async def document() -> Response:
        async with making:
            if not made:
                made.append(await asyncio.to_thread(lambda: msgspec.json.encode(app.openapi())))
        return Response(made[0], media_type="application/json")

    return document


async def _swagger_page() -> HTMLResponse:
    return get_swagger_ui_html(
        openapi_url=OPENAPI_URL,
        title="Vitalgrid API",
        swagger_js_url=f"{ASSETS_URL}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS_URL}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS_URL}/favicon.png",
        swagger_ui_parameters={"persistAuthorization": True, "docExpansion": "none"},
    )


async def _redoc_page() -> HTMLResponse:
    return get_redoc_html(
        openapi_url=OPENAPI_URL,
        title="Vitalgrid API",
        redoc_js_url=f"{ASSETS_URL}/redoc.standalone.js",
        redoc_favicon_url=f"{ASSETS_URL}/favicon.png",
        with_google_fonts=False,
    )


def _name_permissions(app: FastAPI, document: dict[str, Any]) -> None:
    """Say of each route which permission it needs."""
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, APIRoute) and route.include_in_schema:
            for action in permissions_of(route.dependant):
                for method in route.methods or ():
                    document["paths"][route.path_format][method.lower()][PERMISSION] = action.value


def _without_null(document: dict[str, Any]) -> None:
    """A query or header that is left out is nothing at all: there is no way to send null in one."""
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                schema = parameter["schema"]
                kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
                if parameter["in"] in ("query", "header") and len(kinds) == 1:
                    del schema["anyOf"]
                    parameter["schema"] = kinds[0] | schema


def _described(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """Gives the OpenAPI document, which is made once, whoever asks from whichever thread: seconds of work of all routes."""
    making = threading.Lock()

    def document() -> dict[str, Any]:
        with making:
            if app.openapi_schema is None:
                app.openapi_schema = _openapi(app)
            return app.openapi_schema

    return document


def _openapi(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
    )
    _name_permissions(app, document)
    _without_null(document)
    components = document.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = PROBLEM_SCHEMA
    components["securitySchemes"] = _SECURITY_SCHEMES
    document["security"] = [{"token": []}, {"password": []}, {"basic": []}]
    return document
