"""The HTTP API: OpenAI's transcriptions, decisions, models, health, metrics and a page to try it."""

import hmac
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import anyio
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.base import RequestResponseEndpoint
from whisper.tokenizer import LANGUAGES

from whisper_router.serving.form import ROUTED
from whisper_router.serving.formats import NAMESPACE, as_verbose, render, routing, segment_rows
from whisper_router.serving.language import language_of
from whisper_router.serving.problem import Problem
from whisper_router.serving.savings import savings
from whisper_router.serving.service import Answer, Service
from whisper_router.serving.settings import PREFIX, Settings

PAGE = files("whisper_router").joinpath("serving", "page.html").read_text(encoding="utf-8")
TYPES = {"json": "application/json", "verbose_json": "application/json", "vtt": "text/vtt; charset=utf-8"}
POLICY = (
    "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; media-src blob: 'self'; "
    "img-src data:"
)
ENDPOINTS = frozenset(
    ["/", "/health", "/ready", "/metrics", "/v1/models", "/v1/decide", "/v1/audio/transcriptions"]
)  # names of paths that are counted, and no client's
logger = logging.getLogger(__name__)


def routing_headers(answer: Answer) -> dict[str, str]:
    """The route in headers: what a client sees whatever the format."""
    made = answer.made
    values = {
        "arm": made.arm,
        "model": (made.model or "").encode("ascii", "replace").decode(),
        "score": made.score,
        "threshold": made.threshold,
        "policy": made.policy,
        "version": answer.served.version,
        "duration-s": made.duration_s,
        "queue-s": round(answer.queue_s, 4),
        "latency-s": round(answer.latency_s, 4),
    }
    headers = {f"x-whisper-router-{name}": str(value) for name, value in values.items() if value is not None}
    return headers | {"x-request-id": answer.request}


def create_app(settings: Settings) -> FastAPI:
    """The application with its router loaded; its end finishes what was taken on.

    Raises
    ------
    UserError
        The router cannot be loaded, or the log's folder cannot be written.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        app.state.ended = await anyio.to_thread.run_sync(app.state.service.stop)

    app = FastAPI(title="whisper-router", lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.state.service = Service(settings)
    _add_handlers(app, settings)
    _add_routes(app)
    return app


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _add_handlers(app: FastAPI, settings: Settings) -> None:
    key = settings.api_key.get_secret_value() if settings.api_key else None

    def _told(request: Request, problem: Problem) -> Response:
        _service(request).metrics.errors.labels(problem.code).inc()
        return problem.response()

    @app.exception_handler(Problem)
    async def told(request: Request, problem: Problem) -> Response:
        return _told(request, problem)

    @app.exception_handler(HTTPException)
    async def told_by_starlette(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        message = f"{request.method} {request.url.path[:200]}: {error.detail}"
        return _told(request, Problem(error.status_code, code, message, None, error.headers))

    @app.middleware("http")
    async def guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
        path = request.url.path
        try:
            given = request.headers.get("authorization", "")
            wanted = f"Bearer {key}"
            host = request.headers.get("host", "")
            if not settings.allows(host):
                message = (
                    f"host {host[:100]!r} is not served here; {PREFIX}ALLOWED_HOSTS lists those that are"
                )
                response = _told(request, Problem(421, "unknown_host", message, None))
            elif key and path.startswith("/v1/") and not hmac.compare_digest(given.encode(), wanted.encode()):
                message = "send the API key as Authorization: Bearer <key>"
                response = _told(request, Problem(401, "invalid_api_key", message, None))
            else:
                response = await call_next(request)
        except Exception:
            logger.exception("%s %s failed", request.method, path[:200])
            response = _told(request, Problem(500, "internal_error", "internal server error", None))
        endpoint = path if path in ENDPOINTS else "other"
        _service(request).metrics.requests.labels(endpoint, str(response.status_code)).inc()
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _add_routes(app: FastAPI) -> None:
    @app.post("/v1/audio/transcriptions")
    async def transcriptions(request: Request) -> Response:
        answer = await _service(request).answer(request, transcribe=True)
        made, form = answer.made, answer.asked.response_format
        router = answer.served.router
        language = LANGUAGES[language_of(router)]
        if form == "verbose_json":
            more = {"version": answer.served.version, "cost": savings(router, made)}
            body = json.dumps(as_verbose(made, language, more), ensure_ascii=False)
        else:
            body = render(made, form, language)
        kind = TYPES.get(form, "text/plain; charset=utf-8")
        return Response(body, media_type=kind, headers=routing_headers(answer))

    @app.post("/v1/decide")
    async def decide(request: Request) -> Response:
        answer = await _service(request).answer(request, transcribe=False)
        keys = ("start_s", "end_s", "score", "arm", "model", "no_speech")
        segments = [{key: row[key] for key in keys} for row in segment_rows(answer.made)]
        body = {**routing(answer.made), "duration": answer.made.duration_s, "segments": segments}
        return JSONResponse(body, headers=routing_headers(answer))

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        router = _service(request).champion.current.router
        names = [ROUTED, "weak", "strong", *(f"{ROUTED}-{name}" for name in router.policies)]
        return {"object": "list", "data": [_model(name, request) for name in names]}

    @app.get("/v1/models/{name}")
    async def model(name: str, request: Request) -> dict[str, Any]:
        listed: dict[str, Any] = await models(request)
        for entry in listed["data"]:
            if entry["id"] == name:
                return dict(entry)
        raise Problem(404, "model_not_found", f"model {name[:100]!r} is not listed by /v1/models", "model")

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready(request: Request) -> dict[str, Any]:
        service = _service(request)
        if not service.batcher.alive:
            raise Problem(503, "not_ready", "the workers have stopped", None)
        served = service.champion.current
        return {"status": "ready", "version": served.version, "policy": served.router.policy.name}

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        return Response(_service(request).scrape(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/")
    async def page() -> Response:
        return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})


def _model(name: str, request: Request) -> dict[str, Any]:
    served = _service(request).champion.current
    router = served.router
    policy = router.policies.get(name.removeprefix(f"{ROUTED}-"), router.policy)
    arms = {arm: getattr(router.description, arm).model for arm in ("weak", "strong")}
    threshold = None if name in arms else policy.threshold
    more = {
        "arms": arms,
        "threshold": threshold,
        "policy": policy.name,
        "version": served.version,
        "verdict": served.verdict,
    }
    return {"id": name, "object": "model", "created": 0, "owned_by": "whisper-router", NAMESPACE: more}
