"""Checks a rival before it is timed: it answers as the bundle's own backbone does, and all its workers answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import onnxruntime

from benchmarks.serving.backbone import backbone_of
from benchmarks.serving.rivals import Rival
from benchmarks.serving.servers import Server, as_request
from offramp.bundle import Bundle
from offramp.engine.images import decode_images
from offramp.errors import ConfigError

_CONFIDENCE = 1e-3  # kernels differ between machines and numbers of threads; other pixels differ by more
_CONNECTIONS = 32
_TRIES = 3


@dataclass(frozen=True)
class Expected:
    """The answer of the plain backbone to a photo that Offramp decoded."""

    photo: bytes
    label: str
    confidence: float


def expected_answers(bundle: Bundle, photos: Sequence[bytes]) -> list[Expected]:
    """What every rival has to answer."""
    manifest, options = bundle.manifest, onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        backbone_of(bundle).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    expected = []
    for photo in photos:
        pixels = decode_images([photo], manifest.preprocessing)
        probabilities, confidence = session.run(["probabilities", "confidence"], {name: pixels})
        label = manifest.labels[int(probabilities[0].argmax())]
        expected.append(Expected(photo, label, float(confidence[0])))
    return expected


def check_rival(rival: Rival, server: Server, expected: Sequence[Expected]) -> None:
    """Ask a running rival for known answers, over many connections at a time.

    Raises:
        ConfigError: it answers otherwise, or not all of its workers answer; its figures would mean nothing.
    """
    for each in expected:
        _check_answer(rival.name, asyncio.run(_ask(server, [each.photo]))[0], each)
    wanted, found = rival.workers * rival.at_once, set[int]()
    for _ in range(_TRIES):
        answers = asyncio.run(_ask(server, [expected[0].photo] * _CONNECTIONS))
        found |= {answer["worker"] for answer in answers}
        if len(found) == wanted:
            return
    raise ConfigError(
        f"{len(found)} workers of {rival.name} answered {_TRIES * _CONNECTIONS} connections, expected {wanted}; "
        "its figures would not be those of its name"
    )


def _check_answer(name: str, answer: dict[str, Any], expected: Expected) -> None:
    label, confidence = answer["label"], answer["confidence"]
    if label != expected.label or abs(confidence - expected.confidence) > _CONFIDENCE:
        raise ConfigError(
            f"{name} answers '{label}' with confidence {confidence:.4f} where the bundle's backbone answers "
            f"'{expected.label}' with {expected.confidence:.4f}: it decodes or computes something else"
        )


async def _ask(server: Server, photos: Sequence[bytes]) -> list[dict[str, Any]]:
    """Send each photo over a connection of its own, all at the same time."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60, trust_env=False, limits=limits) as client:
        asked = [client.post(server.url, **as_request(photo, form=server.takes_form)) for photo in photos]
        answers = await asyncio.gather(*asked)
    return [answer.raise_for_status().json() for answer in answers]
