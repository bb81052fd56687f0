"""What every HTTP service of the stack has, and how it is served.

`create_service` makes a FastAPI application with `/healthz`, `/readyz`, `/metrics`, problem documents for every
error, bearer keys, request ids and a body-size cap; a service adds its routes. `serve` runs it until SIGTERM.
Nothing here knows what a service does.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from types import FrameType
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from starlette.middleware import Middleware

from shared.connections import BoundedConnection, allow_descriptors
from shared.errors import InfrastructureError, VPDError
from shared.logs import configure_logging
from shared.middleware import OPEN_PATHS, BearerAuth, BodyCap, RequestContext
from shared.problems import Problem, ProblemDocument, ProblemResponse, add_problem_handlers
from shared.settings import Settings

__all__ = ["Check", "Lifespan", "Problem", "create_service", "serve"]

CHECK_TIMEOUT_S = 5.0
EXPOSITION_TIMEOUT_S = 2.0
GRACEFUL_SHUTDOWN_S = 5
MIB = 2**20

Check = Callable[[], Awaitable[str | None]]
"""A readiness check: None is ready, else one sentence why not."""
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
Exposition = Callable[[], Awaitable[bytes]]
"""Further metrics in Prometheus' text format."""


def create_service(
    name: str,
    settings: Settings,
    *,
    version: str = "0.1.0",
    checks: Mapping[str, Check] | None = None,
    lifespan: Lifespan | None = None,
    exposition: Exposition | None = None,
    auth: Middleware | None = None,
    page: Middleware | None = None,
    description: str = "",
) -> FastAPI:
    """Make the application of service `name`; its Prometheus registry is `app.state.registry`.

    `exposition` is awaited at every scrape before the registry is read, and what it returns is appended; where it fails
    or takes too long, nothing is. `auth` takes the place of the one key, for a service that has several. `page` answers
    before any key is asked for (`services/web/page.py`).
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    app = FastAPI(
        title=name,
        version=version,
        description=description,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_function_name,
        responses={"4XX": _problem_schema("The request is wrong."), "5XX": _problem_schema("The service failed.")},
        middleware=[
            Middleware(RequestContext, registry=registry),
            *([page] if page is not None else []),
            auth or Middleware(BearerAuth, api_key=settings.api_key),
            Middleware(BodyCap, max_bytes=settings.service.max_body_mb * MIB),
        ],
    )
    app.state.registry = registry
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    add_problem_handlers(app)
    _add_health_routes(app, checks or {})
    _add_metrics_route(app, exposition)
    return app


def serve(app: FastAPI, settings: Settings, port: int) -> None:
    """Serve `app` on `settings.service.host` and `port` (0: any free one, named in the log) until SIGTERM or Ctrl-C.

    Requests in flight get a few seconds to end. Raises VPDError, in one sentence, when the port is taken or the
    application's lifespan could not start.
    """
    listener = _listen(settings.service.host, port)
    configure_logging(app.title, settings.service.log_format)
    allow_descriptors()
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=BoundedConnection,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
        )
    )
    # A stream without end asks, and ends: the server would wait for it.
    app.state.stopping = lambda: server.should_exit
    with listener, _quiet_exit_on_signals(server):
        asyncio.run(_serve_within_lifespan(app, server, listener))


async def _serve_within_lifespan(app: FastAPI, server: uvicorn.Server, listener: socket.socket) -> None:
    # The lifespan runs here and not in uvicorn, which would turn its errors into a logged traceback.
    async with app.router.lifespan_context(app):
        listener.listen(1024)
        host, port = listener.getsockname()[:2]
        structlog.get_logger().info("listening", host=host, port=port)
        await server.serve(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise InfrastructureError(_why_not_bound(host, port, error)) from error
    return listener


def _why_not_bound(host: str, port: int, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use: stop what holds it, or choose another with --port."
    return f"Cannot listen on {host} port {port}: {error}."


@contextmanager
def _quiet_exit_on_signals(server: uvicorn.Server) -> Iterator[None]:
    """Exit 0 on SIGTERM and SIGINT: at once before the server has started, after its graceful shutdown then."""

    def leave(_: int, __: FrameType | None) -> None:
        if not server.started:
            raise SystemExit(0)

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = {s: signal.signal(s, leave) for s in (signal.SIGTERM, signal.SIGINT)} if in_main_thread else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _add_health_routes(app: FastAPI, checks: Mapping[str, Check]) -> None:
    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], response_model=None)
    async def readyz() -> ProblemResponse | dict[str, Any]:
        """Whether every dependency is there; 503 with a reason for each that is not."""
        reasons = await asyncio.gather(*(_reason(check) for check in checks.values()))
        failed = {name: reason for name, reason in zip(checks, reasons, strict=True) if reason is not None}
        states = {name: failed.get(name, "ok") for name in checks}
        if not failed:
            return {"status": "ready", "checks": states}
        detail = " ".join(f"{name}: {reason}" for name, reason in failed.items())
        return ProblemResponse(503, "Not Ready", detail, checks=states, headers={"Retry-After": "1"})


def _add_metrics_route(app: FastAPI, exposition: Exposition | None) -> None:
    @app.get("/metrics", tags=["health"], response_class=Response)
    async def metrics() -> Response:
        """Prometheus metrics."""
        more = await _exposed(exposition) if exposition is not None else b""
        return Response(generate_latest(app.state.registry) + more, media_type=CONTENT_TYPE_LATEST)


async def _exposed(exposition: Exposition) -> bytes:
    try:
        async with asyncio.timeout(EXPOSITION_TIMEOUT_S):
            return await exposition()
    except (TimeoutError, VPDError, OSError) as error:
        structlog.get_logger().warning("some metrics are missing", reason=str(error) or type(error).__name__)
        return b""


async def _reason(check: Check) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await check()
    except TimeoutError:
        return f"It did not answer within {CHECK_TIMEOUT_S:g} seconds."
    except (VPDError, OSError) as error:
        return str(error)


def _function_name(route: APIRoute) -> str:
    return route.name


def _problem_schema(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = schema.setdefault("components", {})
        document = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
        components.setdefault("schemas", {}).update(document.pop("$defs", {}) | {"ProblemDocument": document})
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}]
        for path in OPEN_PATHS & schema["paths"].keys():
            for operation in schema["paths"][path].values():
                operation["security"] = []
        app.openapi_schema = schema
    return app.openapi_schema
