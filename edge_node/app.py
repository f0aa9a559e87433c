"""The edge node's REST interface: FastAPI for everything but the hot path."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_node.body import LimitedBody, replayed
from edge_node.errors import Refusal, refusal_for
from edge_node.openapi import describe_predict
from edge_node.policy import Policy
from edge_node.predict import Predict
from edge_node.schemas import AccessOut, PolicyIn, PolicyOut, Problem, Readiness, Upstream
from edge_node.settings import EdgeSettings
from edge_node.welcome import add_welcome
from offramp.bundle import Manifest
from offramp.errors import ConfigError, OfframpError, RequestError
from offramp.serving.access.access import Access
from offramp.serving.access.gate import KNOWN, Gate, Rights
from offramp.serving.access.hosts import CheckedHosts
from offramp.serving.access.keys import Caller, Right
from offramp.serving.http.clients import closing, is_draining
from offramp.serving.metrics import CONTENT_TYPE
from offramp.serving.node import Node

PREDICT_PATH = "/v1/predict"
# What a caller needs for each route; None: nothing. A test sees to it that no route is missing.
RIGHTS: Rights = {
    ("POST", PREDICT_PATH): Right.ASK,
    ("GET", "/"): Right.WATCH,
    ("GET", "/docs"): Right.WATCH,
    ("GET", "/docs/oauth2-redirect"): Right.WATCH,
    ("GET", "/openapi.json"): Right.WATCH,
    ("GET", "/static-offline-docs/*"): Right.WATCH,
    ("GET", "/v1/access"): KNOWN,
    ("GET", "/v1/bundle"): Right.WATCH,
    ("GET", "/v1/policy"): Right.WATCH,
    ("PUT", "/v1/policy"): Right.CHANGE,
    ("GET", "/metrics"): Right.WATCH,
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
}
_REFUSED: dict[int | str, str] = {
    400: "a request that is not valid HTTP, or not what its path takes",
    401: "no key or token, or one that is not valid here",
    403: "the key or token does not have the right, or a page on a foreign host asks",
    408: "a request that did not arrive in time",
    421: "a Host header with a name that is not one of this node's",
    431: "a head of too many bytes or headers",
    503: "too many connections, or the node is not ready",
}
_MAX_BYTES = 65_536  # of every body that carries no image


def edge_app(node: Node, settings: EdgeSettings, policy: Policy | None = None) -> ASGIApp:
    """The whole interface: predictions on their own short way, the rest through FastAPI."""
    manifest = node.tier.manifest
    policy = policy or Policy(manifest, settings.policy_file)
    node.metrics.watch_thetas(
        lambda: (policy.state.thetas, policy.state.operating_point),
        [point.name for point in manifest.operating_points],
    )
    predict = Predict(node, policy, settings)
    rest = fastapi_app(node, policy)

    access = Access(settings.access_files)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == PREDICT_PATH:
            await predict(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "HEAD":
            # The server leaves out the body of an answer to HEAD.
            await rest({**scope, "method": "GET"}, receive, send)
        elif scope["type"] == "http" and scope["method"] != "GET":
            await _with_limit(rest, scope, receive, send, timeout_s=settings.body_timeout_s)
        else:
            await rest(scope, receive, send)

    gate = Gate(app, access, RIGHTS, refused=node.metrics.refused)
    return CheckedHosts(gate, settings.hosts, setting=settings.variable("allowed_hosts"))


async def _with_limit(rest: ASGIApp, scope: Scope, receive: Receive, send: Send, *, timeout_s: float) -> None:
    with LimitedBody(scope, receive, max_bytes=_MAX_BYTES, timeout_s=timeout_s) as body:
        try:
            data = await body.read()
        except RequestError as error:
            refused = _json(refusal_for(error))
            refused.headers.update(closing(scope))
            await refused(scope, receive, send)
        else:
            await rest(scope, replayed(data), send)


def fastapi_app(node: Node, policy: Policy) -> FastAPI:
    """Everything but the hot path, without its gate."""
    manifest = node.tier.manifest
    app = FastAPIOffline(
        title="Offramp edge node",
        description=f"Early-exit inference with bundle `{manifest.bundle_id}`.",
        docs_url="/docs",
        redoc_url=None,
        responses={status: {"model": Problem, "description": text} for status, text in _REFUSED.items()},
    )
    app.add_exception_handler(OfframpError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_error)
    add_welcome(app, manifest)
    describe_predict(app, PREDICT_PATH)

    @app.get("/v1/access", summary="Whose key this is, and what it may do")
    async def access(request: Request) -> AccessOut:
        caller: Caller = request.scope["state"]["caller"]
        return AccessOut(name=caller.name, rights=[right.value for right in Right if right in caller.rights])

    @app.get("/v1/bundle", summary="The manifest of the bundle that is served")
    async def bundle() -> Manifest:
        return manifest

    _add_policy(app, policy, manifest)
    _add_operations(app, node)
    return app


def _add_policy(app: FastAPI, policy: Policy, manifest: Manifest) -> None:
    @app.get("/v1/policy", summary="θ in force")
    async def get_policy() -> PolicyOut:
        return _policy_out(policy, manifest)

    @app.put(
        "/v1/policy",
        summary="Change θ, for all following requests",
        responses={status: {"model": Problem} for status in (408, 413, 415, 422, 500)},
    )
    async def put_policy(change: PolicyIn) -> PolicyOut:
        match change:
            case PolicyIn(thetas=list(thetas), operating_point=None):
                await asyncio.to_thread(policy.set_thetas, thetas)
            case PolicyIn(thetas=None, operating_point=str(name)):
                await asyncio.to_thread(policy.choose, name)
            case _:
                raise ConfigError('expected either {"thetas": [0.9, …]} or {"operating_point": "NAME"}')
        return _policy_out(policy, manifest)


def _policy_out(policy: Policy, manifest: Manifest) -> PolicyOut:
    state = policy.state
    return PolicyOut(
        thetas=list(state.thetas),
        operating_point=state.operating_point,
        operating_points=[point.name for point in manifest.operating_points],
        outlives_restart=policy.outlives_restart,
    )


def _add_operations(app: FastAPI, node: Node) -> None:
    # What those who run the node ask: orchestrators and Prometheus.
    @app.get("/healthz", summary="Whether the process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", summary="Whether requests are answered", responses={503: {"model": Readiness}})
    async def readyz(request: Request, response: Response) -> Readiness:
        readiness = _readiness(node)
        if is_draining(request.scope):
            readiness = readiness.model_copy(update={"ready": False})
        if not readiness.ready:
            response.status_code = 503
        if Right.WATCH not in request.scope["state"]["caller"].rights:
            return Readiness(ready=readiness.ready)
        return readiness

    @app.get("/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(node.metrics.text(), media_type=CONTENT_TYPE)


def _readiness(node: Node) -> Readiness:
    manifest = node.tier.manifest
    state = node.upstream.state if node.upstream else None
    trouble = node.trouble
    return Readiness(
        ready=trouble is None,
        reason=trouble,
        bundle=manifest.bundle_id,
        upstream=Upstream.model_validate(asdict(state)) if state else None,
    )


def _json(refusal: Refusal) -> JSONResponse:
    return JSONResponse(refusal.body, refusal.status, headers=refusal.headers)


async def _answer_error(_: Request, error: Exception) -> JSONResponse:
    return _json(refusal_for(error))


async def _answer_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0] != "application/json":
        # curl -d says application/x-www-form-urlencoded unless told otherwise.
        message = f"content type is '{content_type}', expected application/json; add a content-type header"
        return _json(Refusal(415, "unsupported_media", message))
    first: dict[str, Any] = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return _json(Refusal(422, "bad_value", f"{place}: {first['msg']}; GET /docs shows what is expected"))


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}; GET /docs shows what there is"
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    headers = {"allow": _methods(request)} if error.status_code == 405 else error.headers
    return JSONResponse({"error": message, "code": code}, error.status_code, headers=headers)


def _methods(request: Request) -> str:
    """The methods of a path; one that takes GET takes HEAD."""
    app: FastAPI = request.app
    found: set[str] = set()
    for route in app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or {"GET"}
    return ", ".join(sorted(found | {"HEAD"} if "GET" in found else found))
