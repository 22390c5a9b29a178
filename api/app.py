"""The REST application.

Layers from the outside in: request log, limits, authentication, access audit, body limit, gzip, idempotency keys, routes.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware

from api import account_pages, documentation, errors, second_factor_pages
from api.access_audit import AccessAudit
from api.answers.formats import MEDIA_TYPES, Format
from api.auth import Authentication
from api.background import running, tasks_of
from api.body_limit import BodyLimit
from api.browsers import cookie_name
from api.emergency import end_wider_streams
from api.idempotency import IdempotencyKeys
from api.limits import AddressLimit, PrincipalLimit, RequestLimits
from api.live.hospital_streams import HospitalStreams
from api.paths import PREFIX
from api.request_log import RequestLog
from api.routes.router import EVERYWHERE
from api.routing import OPERATION, ROUTERS, TOKENS
from api.services import Backend, Services
from api.telemetry import Telemetry
from api.vitals import watch_platform

_GZIP_LEVEL: Final = 3
_NOT_ZIPPED: Final = (*DEFAULT_EXCLUDED_CONTENT_TYPES, MEDIA_TYPES[Format.ARROW])  # its columns are compressed already
_DESCRIPTION: Final = """
Readings of medical devices in, alarms and answers out, for one region.

* Users sign in at `/oauth/token`, or at `/login` with a browser: one session a user. Services carry a token of their own.
* Every other path needs `Authorization: Bearer <token>`; Basic with the token as password will do too.
* Each path names in `x-permission` what it takes; who was given that where is told by `GET /users/{name}/grants`. What lies
  out of reach is refused (403), or unknown (404) where already to know of it would tell something. `X-Purpose` says what
  records are asked for.
* Times are RFC 3339 with a zone; `tz` (IANA name) chooses the zone of the answer.
* Lists are paged by `limit` and the opaque `cursor` of the `next` link.
* Updates need `If-Match` with the ETag they were made on. `X-Reason` is recorded with each write.
* A creating POST may carry `Idempotency-Key`: repeated with it, it is done once and answered alike for a day.
* Errors are RFC 9457 problems with a stable `code`.
* Each answer bears `X-Request-Id`, under which logs name the request: the caller's own, if it sent a UUID or 32 hex digits
  with a letter among them, else one of ours.
* Whose records are asked for is noted in the access log before they are shown: `/audit/events`.
* Alarms are a secondary, information-only path: alarms at the bedside stay primary.
"""


def create_app(services: Services, *, background: bool = True, limits: RequestLimits | None = None) -> FastAPI:
    """The application over `services`. Its background tasks run while its lifespan is open.

    One process of a region has `background` tasks: alarm desk, audio pauses, outbox relay, webhook. Further ones that
    only answer requests are started without.
    """
    telemetry, limits = Telemetry(), limits or RequestLimits()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        backend = app.state.backend = Backend.over(services, telemetry)
        watch_platform(backend)
        await backend.hosts.listen(services.bus)
        await backend.storage.listen(services.bus)
        await backend.doors.listen(services.bus)
        await backend.log_state.listen(services.bus)
        try:
            tasks: dict[str, Callable[[], Awaitable[None]]] = {
                "access-trail": backend.trail.run, "sign-in-failures": backend.sign_in.failures.run,
                "wider-streams": lambda: end_wider_streams(backend),
            }  # fmt: skip
            if background:
                tasks |= tasks_of(backend) | {"hospital-streams": HospitalStreams(app, backend).run}
            async with running(backend, tasks):
                yield
        finally:
            await backend.close()

    app = FastAPI(
        title="Vitalgrid",
        version="1",
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # documentation serves it
        middleware=[
            Middleware(RequestLog, telemetry=telemetry),
            Middleware(AddressLimit, limits=limits),
            Middleware(Authentication, callers=services.callers, cookie=cookie_name(over_tls=services.over_tls)),
            Middleware(AccessAudit),
            Middleware(PrincipalLimit, limits=limits),
            Middleware(BodyLimit),
            Middleware(GZipMiddleware, minimum_size=1024, compresslevel=_GZIP_LEVEL, exclude_content_types=_NOT_ZIPPED),
            Middleware(IdempotencyKeys, clock=services.clock),
        ],
    )
    app.state.telemetry = telemetry
    errors.install(app)
    documentation.install(app)
    for router in (account_pages.router, second_factor_pages.router, *ROUTERS, TOKENS):
        app.router.routes.extend(router.routes)
    app.include_router(OPERATION, prefix=PREFIX, responses=EVERYWHERE)
    app.include_router(OPERATION, include_in_schema=False)  # where probes and Prometheus look for them
    return app
