"""Checks that figures mean what they say.

Before a rival is timed, it answers as the bundle's backbone does, with all its workers. No timed answer of Offramp's is
degraded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

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


@contextmanager
def none_degraded(server: Server) -> Iterator[None]:
    """Check that Offramp gives no degraded answer meanwhile, since those leave out the cloud's work.

    Raises:
        ConfigError: it gave some.
    """
    before = _degraded(server)
    yield
    if found := _degraded(server) - before:
        raise ConfigError(
            f"{found:.0f} answers of {server.name} were degraded, so its figures leave out work; "
            "give --edge-args a longer --offload-timeout-s"
        )


def _degraded(server: Server) -> float:
    lines = httpx.get(urljoin(server.url, "/metrics"), timeout=60, trust_env=False).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("offramp_degraded_total{"))


async def _ask(server: Server, photos: Sequence[bytes]) -> list[dict[str, Any]]:
    """Send each photo over a connection of its own, all at the same time.

    Raises:
        ConfigError: one was not answered.
    """
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60, trust_env=False, limits=limits) as client:
        asked = [client.post(server.url, **as_request(photo, form=server.takes_form)) for photo in photos]
        try:
            answers = await asyncio.gather(*asked)
            return [answer.raise_for_status().json() for answer in answers]
        except httpx.HTTPError as error:
            raise ConfigError(f"{server.name} failed one of {len(photos)} photos: {error}") from error
