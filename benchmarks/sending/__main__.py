"""How true the told bytes and the planned latencies are: everything that can be served, over real links.

    python -m benchmarks.sending models/b-lite0-grocery --photos data/grocery.zip --links "50mbit,5ms 5mbit,40ms"

For each link and each row of the plan that the bundle can serve, both nodes run as processes with a link between them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console

from benchmarks.sending.measuring import serve
from benchmarks.sending.page import Line, page_of
from benchmarks.sending.photos import photos_of
from offramp.authoring.evaluation.predictions import predict_every_exit
from offramp.authoring.evaluation.report import report
from offramp.authoring.planning.observed import observe
from offramp.authoring.planning.plan import Plan, plan
from offramp.authoring.planning.rows import Row
from offramp.bundle import Bundle, load_bundle
from offramp.bundle.manifest import Payload
from offramp.cli.plan import link_of, measured_overhead
from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.engine.images import decode_images
from offramp.serving.link import LinkSettings

_LOSSY: tuple[Payload, ...] = ("jpeg-50", "webp-50", "webp-10")


class Sending(Command):
    """Compare what is told and planned with what is on the socket, for every row that can be served.

    Example: python -m benchmarks.sending models/b-lite0-grocery --photos data/grocery.zip --count 60
    """

    bundle: CliPositionalArg[Path] = Field(description="directory of the bundle")
    photos: Path = Field(description="data set whose test photos are sent")
    count: int = Field(default=60, ge=2, description="how many photos, spaced evenly")
    megapixels: float | None = Field(
        default=None, gt=0, description="enlarge the photos to this size first, as a camera would make them"
    )
    links: str = Field(
        default="50mbit,5ms 5mbit,40ms 1mbit,100ms", description="links to serve over, with spaces between"
    )
    thetas: str | None = Field(
        default=None,
        description="θ of every exit but the last (default: a fifth of the photos goes on at each)",
    )
    page: Path | None = Field(default=None, description="also write this Markdown file")

    def execute(self) -> None:
        """Plan, serve every row, and print the page."""
        loaded = load_bundle(self.bundle)
        photos = photos_of(self.photos, self.count, megapixels=self.megapixels)
        with progress("photos", len(photos)) as advance:
            observed = observe(loaded, [partial(bytes, file) for file in photos], _LOSSY, advance=advance)
        confidence = observed.answered.confidence
        thetas = (
            [float(word) for word in self.thetas.split(",")]
            if self.thetas
            else np.quantile(confidence[:, :-1], 0.2, axis=0).tolist()
        )
        overhead = measured_overhead(self.bundle, photos[:30], observed)
        lines: list[Line] = []
        links = self.links.split()
        plans = {text: plan(observed, thetas, link_of(text), overhead=overhead) for text in links}
        rows = [number for number, row in enumerate(plans[links[0]].rows) if row.serve and row.offload_rate]
        with progress("runs", len(links) * len(rows)) as advance:
            for text in links:
                for number in rows:
                    lines.append(self._line(loaded, photos, text, plans[text], plans[text].rows[number]))
                    advance(1)
        text = page_of(self.bundle.name, self.photos.name, len(photos), thetas, lines, plans)
        Console().print(text, highlight=False, markup=False, soft_wrap=True)
        if self.page:
            self.page.write_text(text, encoding="utf-8")

    def _line(self, bundle: Bundle, photos: Sequence[bytes], text: str, planned: Plan, row: Row) -> Line:
        assert row.serve is not None and row.split_point is not None
        link = link_of(text)
        served = serve(
            self.bundle,
            photos,
            link=LinkSettings(delay_ms=link.delay_ms, rate_mbit=link.rate_mbit),
            options=row.serve.split(),
            thetas=planned.thetas,
        )
        return Line(text, row, served, _evaluated_bytes(bundle, photos, planned.thetas, row))


def _evaluated_bytes(
    bundle: Bundle, photos: Sequence[bytes], thetas: Sequence[float], row: Row
) -> float | None:
    """Mean bytes of a request as `evaluate` tells them; only for the split of the bundle."""
    manifest = bundle.manifest
    assert row.serve is not None
    if row.split_point != manifest.operating_point.split_point:
        return None
    # One by one: together, they would be over the limit of pixels.
    pixels = np.concatenate([decode_images([photo], manifest.preprocessing) for photo in photos])
    found = predict_every_exit(
        bundle,
        pixels,
        file_bytes=np.array([len(photo) for photo in photos]),
        payload=row.serve.split()[-1],
    )
    truth_N = found.said[:, -1]
    return report(
        manifest,
        found.against(truth_N),
        thetas,
        split_point=row.split_point,
        name=None,
        offloads=found.offloads,
    ).request_bytes_mean


if __name__ == "__main__":
    run_command(Sending, sys.argv[1:], program="python -m benchmarks.sending")
