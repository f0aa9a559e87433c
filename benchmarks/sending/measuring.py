"""Both nodes as processes with a link between them: bytes on the socket, bytes as counted, and latency."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from offramp.cli.processes import node_process
from offramp.serving.link import LinkSettings, link_in_background

_WARM_UP = 8
_SETTLE_S = 0.3


@dataclass(frozen=True)
class Served:
    """What the requests of one edge took: bytes and milliseconds, each the mean of a request.

    socket_bytes: on the link. told_bytes: in the answers. counted_bytes: in the metrics, which the dashboard shows. ms:
    from the request's arrival to its answer, as the edge tells; that of an offloaded one is offload_ms.
    """

    requests: int
    offloaded: int
    socket_bytes: float
    told_bytes: float
    counted_bytes: float
    ms: float
    offload_ms: float
    sent: frozenset[str]


def serve(
    bundle: Path,
    photos: Sequence[bytes],
    *,
    link: LinkSettings,
    options: Sequence[str],
    thetas: Sequence[float],
    offload_timeout_s: float = 60.0,
) -> Served:
    """Ask an edge with these options about every photo, one after the other."""
    common = [str(bundle), "--port", "0"]
    patient = ["--offload-timeout-s", str(offload_timeout_s)]
    with (
        node_process("cloud_node", common, name="cloud") as cloud,
        link_in_background(cloud.address, link) as line,
        node_process(
            "edge_node", [*common, "--upstream", f"127.0.0.1:{line.port}", *patient, *options], name="edge"
        ) as edge,
        httpx.Client(base_url=f"http://{edge.address}", timeout=120, trust_env=False) as client,
    ):
        never = [1.0] * len(thetas)
        client.put("/v1/policy", json={"thetas": never}).raise_for_status()
        for photo in photos[:_WARM_UP]:
            _ask(client, photo)
        client.put("/v1/policy", json={"thetas": list(thetas)}).raise_for_status()
        time.sleep(_SETTLE_S)
        up, counted = line.up_bytes, _counted(client)
        answers = [_ask(client, photo) for photo in photos]
        time.sleep(_SETTLE_S + 3 * link.delay_ms / 1000)
        return _served(answers, line.up_bytes - up, _counted(client) - counted)


def _served(answers: Sequence[dict[str, Any]], socket_bytes: int, counted_bytes: float) -> Served:
    offloaded = [answer for answer in answers if answer["sent"] != "nothing"]
    count = len(answers)
    return Served(
        requests=count,
        offloaded=len(offloaded),
        socket_bytes=socket_bytes / count,
        told_bytes=sum(answer["uplink_bytes"] for answer in answers) / count,
        counted_bytes=counted_bytes / count,
        ms=sum(answer["timings_ms"]["total"] for answer in answers) / count,
        offload_ms=sum(answer["timings_ms"]["total"] for answer in offloaded) / max(1, len(offloaded)),
        sent=frozenset(answer["sent"] for answer in offloaded),
    )


def _ask(client: httpx.Client, photo: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/v1/predict", content=photo).raise_for_status().json()
    assert not answer["degraded"], answer
    return answer


def _counted(client: httpx.Client) -> float:
    found = text_string_to_metric_families(client.get("/metrics").text)
    return sum(
        sample.value
        for family in found
        for sample in family.samples
        if sample.name == "offramp_uplink_bytes_total"
    )
