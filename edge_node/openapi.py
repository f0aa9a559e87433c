"""The OpenAPI entry of `POST /v1/predict`: a route that is described and never asked; the hot path answers first."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from edge_node.body import ImagesAsJson
from edge_node.schemas import Prediction, Predictions, Problem

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}

_REFUSALS: dict[int | str, str] = {
    400: "not an image, truncated, malformed JSON or multipart, or an unknown query",
    408: "the body did not arrive in time",
    413: "too many bytes, images or pixels",
    415: "a content type or an image format this node does not read",
    503: "overloaded, or no exit at hand and the upstream gone; Retry-After says when to come again",
}

# What a request may hold. FastAPI would derive it from a signature, but then promise a 422 that is never sent.
_REQUEST: dict[str, Any] = {
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
    "requestBody": {
        "required": True,
        "content": {
            "image/jpeg": _BINARY,
            "image/png": _BINARY,
            "image/webp": _BINARY,
            "multipart/form-data": {"schema": {"type": "object", "properties": {"images": _FILES}}},
            "application/json": {
                "schema": ImagesAsJson.model_json_schema(),
                "examples": {
                    "one": {"value": {"image": "iVBORw0KGgo…"}},
                    "several": {"value": {"images": ["iVBORw0KGgo…", "/9j/4AAQSkZ…"]}},
                },
            },
        },
    },
}


def describe_predict(app: FastAPI, path: str) -> None:
    """Have `app` describe the path that `Predict` answers."""

    @app.post(
        path,
        summary="Classify one image or several",
        response_description="the answer, from the first exit that was sure enough",
        responses={status: {"model": Problem, "description": text} for status, text in _REFUSALS.items()},
        openapi_extra=_REQUEST,
    )
    def predict() -> Prediction | Predictions:
        """Send the image itself, a form with files, or JSON with base64.

        One image is answered by one object, several by `predictions`.
        """
        raise AssertionError(f"{path} is answered before FastAPI is asked")
