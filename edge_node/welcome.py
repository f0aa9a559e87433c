"""`GET /`: what this node is and where to go next, as a page for people and as JSON for programs."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from string import Template

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from offramp.bundle import Manifest

_LINKS = {
    "/docs": "every path with its requests and responses; try them there",
    "/v1/bundle": "what this node serves: blocks, exits, labels, operating points",
    "/v1/policy": "the thresholds θ in force; PUT changes them",
    "/readyz": "whether this node can answer, and whether it reaches the next tier",
    "/metrics": "metrics for Prometheus",
}
_SHOWN_LABELS = 12
_HEADERS = {
    "vary": "accept",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
}


class Welcome(BaseModel):
    """What this node is, and where to go next."""

    name: str
    bundle: str
    predict: str = Field(description="a command that classifies a photo")
    links: dict[str, str] = Field(description="paths of this node, and what each is for")


def add_welcome(app: FastAPI, manifest: Manifest) -> None:
    """Add `GET /` to `app`."""
    page = Template((files("edge_node") / "welcome.html").read_text(encoding="utf-8"))

    @app.get(
        "/",
        summary="What this node is, and where to go next",
        response_model=Welcome,
        responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
    )
    def welcome(request: Request) -> Response:
        told = Welcome(
            name=app.title,
            bundle=manifest.bundle_id,
            predict=f"curl{_shown(request)} --data-binary @photo.jpg {request.url.scheme}://{_address(request)}/v1/predict",
            links=_LINKS,
        )
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(_filled(page, told, manifest), headers=_HEADERS)
        return JSONResponse(told.model_dump(), headers=_HEADERS)


def _shown(request: Request) -> str:
    """The option that shows a key, where one is needed."""
    needs_key = request.scope["state"]["caller"].name is not None
    return ' -H "Authorization: Bearer $KEY"' if needs_key else ""


def _address(request: Request) -> str:
    # The address that the client used. People paste the command into a shell: only what can be a host gets this far.
    return request.headers["host"]


def _filled(page: Template, told: Welcome, manifest: Manifest) -> str:
    return page.substitute(
        bundle=escape(told.bundle),
        curl=escape(told.predict),
        answer=escape(_answer(manifest)),
        links="\n".join(
            f'<dt><a href="{path}"><code>{path}</code></a></dt><dd>{escape(text)}</dd>'
            for path, text in told.links.items()
        ),
    )


def _answer(manifest: Manifest) -> str:
    if (quantity := manifest.task.quantity) is not None:
        return (
            f"an estimate of {quantity.name}, {quantity.low:g} to {quantity.high:g} {quantity.unit}".rstrip()
        )
    labels = ", ".join(manifest.labels[:_SHOWN_LABELS]) + (
        ", …" if len(manifest.labels) > _SHOWN_LABELS else ""
    )
    how_many = "any number" if manifest.task.kind == "multi_label" else "one"
    return f"{how_many} of {len(manifest.labels)} labels: {labels}"
