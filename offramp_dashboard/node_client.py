"""The part of a node's HTTP interface that the dashboard uses; every fault becomes one sentence.

An edge node has all of it, a cloud node only /metrics.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from offramp.bundle import Manifest
from offramp.errors import OfframpError
from offramp_dashboard.reading import Reading, parsed
from offramp_dashboard.schemas import Access, Policy, Prediction, Readiness

_ASK_S = 2.0
_PREDICT_S = 30.0
_MAX_BYTES = 8_000_000  # of an answer; a manifest with many layers has a few hundred kB

T = TypeVar("T")


class NodeError(OfframpError):
    """A node could not be reached, refused, or gave an unexpected answer; `status`: of its HTTP answer, if any."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class NodeClient:
    """Asks one node, with a key if it has one."""

    def __init__(
        self,
        address: str,
        *,
        key: Callable[[], str | None] = lambda: None,
        trusted: ssl.SSLContext | None = None,
    ) -> None:
        """Connect with the first request; `trusted`: whose certificates a node may show, the system's if None."""
        self.address = address
        self._key = key
        self._http = httpx.AsyncClient(
            base_url=address, timeout=_ASK_S, trust_env=False, verify=trusted or address.startswith("https:")
        )

    def using(self, key: str | None) -> NodeClient:
        """Ask the same node over the same connections, but with this key, or with none."""
        other = copy(self)
        other._key = lambda: key  # noqa: SLF001 - its own class
        return other

    async def access(self) -> Access:
        """What the key may do.

        Raises:
            NodeError: it is not valid, or there is none and the node asks for one; its status is 401.
        """
        return _checked(Access, await self._asked("GET", "/v1/access"), "GET /v1/access")

    async def metrics(self) -> Reading:
        """Read the node's metrics.

        Raises:
            ReadingError: the answer is not the metrics of a node.
            NodeError: the node did not answer.
        """
        return parsed((await self._asked("GET", "/metrics")).decode("utf-8", "replace"))

    async def bundle(self) -> Manifest:
        """The manifest of the bundle that is served."""
        return _checked(Manifest, await self._asked("GET", "/v1/bundle"), "GET /v1/bundle")

    async def policy(self) -> Policy:
        """θ in force."""
        return _checked(Policy, await self._asked("GET", "/v1/policy"), "GET /v1/policy")

    async def set_thetas(self, thetas: Sequence[float]) -> Policy:
        """Set θ by hand; return the policy that is then in force."""
        return await self._put_policy({"thetas": list(thetas)})

    async def choose(self, operating_point: str) -> Policy:
        """Choose an operating point of the bundle; return the policy that is then in force."""
        return await self._put_policy({"operating_point": operating_point})

    async def readiness(self) -> Readiness:
        """Whether the node can answer, and the state of its upstream."""
        # 503 is an answer here: it says why the node is not ready.
        body = await self._asked("GET", "/readyz", fine=(200, 503))
        return _checked(Readiness, body, "GET /readyz")

    async def predict(self, image: bytes) -> Prediction:
        """Classify one photo.

        Raises:
            NodeError: it is not a photo, or the node did not answer; the message is the node's own.
        """
        body = await self._asked(
            "POST",
            "/v1/predict?probabilities=true",
            content=image,
            headers={"content-type": "image/*"},
            timeout=_PREDICT_S,
        )
        return _checked(Prediction, body, "POST /v1/predict")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _put_policy(self, change: dict[str, object]) -> Policy:
        return _checked(Policy, await self._asked("PUT", "/v1/policy", json=change), "PUT /v1/policy")

    async def _asked(self, method: str, path: str, *, fine: tuple[int, ...] = (200,), **how: Any) -> bytes:
        if key := self._key():
            how["headers"] = {**how.get("headers", {}), "authorization": f"Bearer {key}"}
        try:
            async with self._http.stream(method, path, **how) as response:
                body = await _read(response)
        except httpx.TimeoutException as error:
            raise NodeError(f"{self.address} did not answer in time") from error
        except httpx.HTTPError as error:
            raise NodeError(f"{self.address} cannot be reached: {error or type(error).__name__}") from error
        if response.status_code not in fine:
            raise NodeError(_said(response.status_code, body, f"{method} {path}"), response.status_code)
        return body


async def _read(response: httpx.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > _MAX_BYTES:
            raise NodeError(
                f"{response.url} answered with more than {_MAX_BYTES} bytes; is this an edge node?"
            )
    return b"".join(parts)


def _checked(model: type[T], body: bytes, what: str) -> T:
    try:
        return TypeAdapter(model).validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise NodeError(f"{what} gave an unexpected answer: {place}: {first['msg']}") from error


def _said(status: int, body: bytes, what: str) -> str:
    try:
        said = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        said = f"{what} answered with status {status}; is this an edge node?"
    return str(said)
