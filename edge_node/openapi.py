"""The OpenAPI entry of `/v1/predict`, which FastAPI cannot derive since it does not serve that path."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from edge_node.body import ImagesAsJson
from edge_node.schemas import Prediction, Predictions, Problem

_PREFIX = "#/components/schemas/"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_REFUSALS = {
    "400": "not an image, truncated, malformed JSON or multipart, or an unknown query",
    "408": "the body did not arrive in time",
    "413": "too many bytes, images or pixels",
    "415": "a content type or an image format this node does not read",
    "503": "overloaded, or no exit at hand and the upstream gone; Retry-After says when to come again",
}


def add_predict(app: FastAPI, path: str) -> None:
    """Add the path and its models to the schema that `app` serves."""
    derive = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = derive()
            schema["paths"] = {path: {"post": _operation()}, **schema["paths"]}
            schema["components"].setdefault("schemas", {}).update(_models())
            app.openapi_schema = schema
        return app.openapi_schema

    # The way FastAPI documents for extending its schema.
    app.openapi = openapi  # type: ignore[method-assign] # as FastAPI documents it


def _operation() -> dict[str, Any]:
    return {
        "summary": "Classify one image or several",
        "description": "Send the image itself, a form with files, or JSON with base64. "
        "One image is answered by one object, several by `predictions`.",
        "parameters": [
            {
                "name": "probabilities",
                "in": "query",
                "description": "answer with the probabilities of all classes",
                "schema": {"type": "boolean", "default": False},
            },
            {
                "name": "X-Request-ID",
                "in": "header",
                "description": "taken through all tiers and their logs; made up if absent",
                "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
            },
        ],
        "requestBody": {"required": True, "content": _request_content()},
        "responses": {
            "200": {
                "description": "the answer, from the first exit that was sure enough",
                "content": {
                    "application/json": {
                        "schema": {"oneOf": [_reference(Prediction), _reference(Predictions)]}
                    }
                },
            },
            **{status: _refused(description) for status, description in _REFUSALS.items()},
        },
    }


def _request_content() -> dict[str, Any]:
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    return {
        "image/jpeg": _BINARY,
        "image/png": _BINARY,
        "image/webp": _BINARY,
        "multipart/form-data": {"schema": {"type": "object", "properties": {"images": files}}},
        "application/json": {
            "schema": _reference(ImagesAsJson),
            "examples": {
                "one": {"value": {"image": "iVBORw0KGgo…"}},
                "several": {"value": {"images": ["iVBORw0KGgo…", "/9j/4AAQSkZ…"]}},
            },
        },
    }


def _refused(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _reference(Problem)}}}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"{_PREFIX}{model.__name__}"}


def _models() -> dict[str, Any]:
    models = [(model, "validation") for model in (ImagesAsJson, Prediction, Predictions, Problem)]
    # The stubs want the mode as a literal, which a list of tuples loses.
    _, schema = models_json_schema(models, ref_template=_PREFIX + "{model}")  # type: ignore[arg-type] # the mode loses its literal
    definitions: dict[str, Any] = schema["$defs"]
    return definitions
