"""Both nodes as processes, with a link between them that counts the bytes on the socket."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.cli.processes import node_process
from offramp.serving.link import link_in_background

_WARM_UP = 20
_SETTLE_S = 0.5


@dataclass(frozen=True)
class SocketCount:
    """Bytes of one offloaded sample, sent on its own: on the socket, and as the edge counts them."""

    samples: int
    up_bytes: float
    down_bytes: float
    accounted_bytes: float

    @property
    def off_by(self) -> float:
        """How far the edge's count is off, as a share of the bytes on the socket."""
        return abs(self.accounted_bytes - self.up_bytes) / self.up_bytes


def count_on_socket(bundle: Path, pixels: NDArray[np.uint8], num_exits: int) -> SocketCount:
    """Send photos one by one, with θ = 1 so that none leaves early."""
    common = [str(bundle), "--port", "0"]
    with (
        node_process("cloud_node", common, name="cloud", show=_silent) as cloud,
        link_in_background(cloud.address) as link,
        node_process(
            "edge_node", [*common, "--upstream", f"127.0.0.1:{link.port}"], name="edge", show=_silent
        ) as edge,
        httpx.Client(base_url=f"http://{edge.address}", timeout=30, trust_env=False) as client,
    ):
        client.put("/v1/policy", json={"thetas": [1.0] * (num_exits - 1)}).raise_for_status()
        for image in pixels[:_WARM_UP]:
            _ask(client, image)
        time.sleep(_SETTLE_S)
        up, down = link.up_bytes, link.down_bytes
        accounted = [_ask(client, image) for image in pixels[_WARM_UP:]]
        time.sleep(_SETTLE_S)
        count = len(accounted)
        return SocketCount(
            count, (link.up_bytes - up) / count, (link.down_bytes - down) / count, sum(accounted) / count
        )


def _ask(client: httpx.Client, pixels_HWC: NDArray[np.uint8]) -> int:
    file = io.BytesIO()
    image = Image.fromarray(pixels_HWC.squeeze(2) if pixels_HWC.shape[2] == 1 else pixels_HWC)
    image.save(file, "PNG")
    answer = client.post("/v1/predict", content=file.getvalue()).raise_for_status().json()
    assert not answer["degraded"], answer
    return int(answer["uplink_bytes"])


def _silent(_: str) -> None:
    pass
