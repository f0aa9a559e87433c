"""The OpenAPI entry of `POST /v1/predict`: this route is only documentation, since the hot path answers first."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from edge_node.asked import LONGEST_MS
from edge_node.json_images import ImagesAsJson
from edge_node.schemas import Prediction, Predictions, Problem

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}

_REFUSALS: dict[int | str, str] = {
    400: "not an image, a truncated image, malformed JSON or multipart, or an unknown query parameter",
    408: "the body did not arrive in time",
    413: "too many bytes, images or pixels",
    415: "a content type, a content encoding or an image format this node does not read",
    431: "a head of too many bytes or headers",
    503: "overloaded, or the upstream is gone and no local exit can answer; Retry-After says when to try again",
    504: "no answer within the time that X-Request-Timeout-Ms allows",
}

# FastAPI would derive this from a signature, but it would then document a 422 that is never sent.
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
            "description": "passed through all tiers and their logs, and answered as a header; generated if absent. "
            "Visible ASCII characters; of more than 64 the first 64 are used, and others than letters, digits, '.', "
            "'_' and '-' become '_'",
            "schema": {"type": "string", "pattern": "^[!-~]+$"},
        },
        {
            "name": "X-Request-Timeout-Ms",
            "in": "header",
            "description": "how long the client waits for the answer, body included; after that, 504. Tiers behind "
            "this one get what is left",
            "schema": {"type": "integer", "minimum": 1, "maximum": LONGEST_MS},
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
    """Add the path that `Predict` answers to the OpenAPI page of `app`."""

    @app.post(
        path,
        summary="Classify one image or several",
        response_description="the answer, from the first exit that was confident enough",
        responses={status: {"model": Problem, "description": text} for status, text in _REFUSALS.items()},
        openapi_extra=_REQUEST,
    )
    def predict() -> Prediction | Predictions:
        """Send the image itself, a form with files, or JSON with base64.

        One image is answered by one object, several by `predictions`.
        """
        raise AssertionError(f"{path} is answered before FastAPI sees it")
