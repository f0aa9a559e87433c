"""Compares Offramp with other servers: `python -m benchmarks.serving`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console

from benchmarks.serving.choosing import choose
from benchmarks.serving.measuring import Comparison, Plan, compare
from benchmarks.serving.page import machine, page_of, plot_name, plot_of
from benchmarks.serving.photos import describe, enlarged, folder_of
from benchmarks.serving.rivals import RIVALS, Rival
from offramp.bundle import Bundle, load_bundle
from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.errors import ConfigError

_BUNDLES = (Path("models/b-alexnet-cifar10"), Path("models/b-resnet56-cifar10"))


class Serving(Command):
    """Compare Offramp with servers of the plain backbone, in one run; needs Linux, wrk and the extras train and dev.

    Example: python -m benchmarks.serving models/b-alexnet-cifar10 --photos data/cifar10.zip --quick
    """

    bundles: CliPositionalArg[list[Path]] = Field(
        default=[], description="directories of bundles (default: two of those that ship)"
    )
    photos: Path = Field(
        default=Path("data/cifar10.zip"),
        description="folder of JPEG photos to send, or a zip with a folder test/",
    )
    megapixels: float | None = Field(
        default=None,
        gt=0,
        le=25,
        description="send 24 of them enlarged to this size, as a camera would encode them (default: as they are)",
    )
    enlarged: Path = Field(
        default=Path("~/.cache/offramp/enlarged"), description="where enlarged photos are kept"
    )
    max_drop: float = Field(
        default=0.5,
        description="serve the cheapest point at most this many points below the plain backbone, on validation",
    )
    point: str | None = Field(default=None, description="serve this point instead")
    backbone: Path | None = Field(
        default=None,
        description="bundle whose plain backbone the rivals serve, such as that in float32 (default: the bundle's own)",
    )
    turbo: bool = Field(default=False, description="rivals decode JPEGs with simplejpeg, as Offramp does")
    rounds: int = Field(default=5, ge=1, description="turns of each server")
    seconds: float = Field(default=3.0, ge=1, description="length of each turn")
    clients: str = Field(default="1,4,16,64", description="numbers of clients")
    only: str | None = Field(default=None, description="only rivals with one of these in their names, a,b")
    environments: Path = Field(
        default=Path("~/.cache/offramp/rivals"), description="where rivals are installed on first use"
    )
    edge_args: str = Field(default="--processes 2", description="options of the edge node")
    cloud_args: str | None = Field(
        default=None, description="options of the cloud node (default: the blocks from the split on)"
    )
    quick: bool = Field(default=False, description="one round, 1 and 16 clients, FastAPI only")
    as_json: bool = Field(default=False, alias="json", description="print one JSON object")
    page: Path | None = Field(default=None, description="also write this Markdown file, and plots next to it")

    def execute(self) -> None:
        """Compare on every bundle, then print the page or its figures."""
        rivals = _rivals("FastAPI" if self.quick else self.only)
        loaded = [load_bundle(path) for path in self.bundles or _BUNDLES]
        backbone = load_bundle(self.backbone) if self.backbone else None
        with folder_of(self.photos) as folder:
            if self.megapixels:
                folder = enlarged(folder, self.megapixels, self.enlarged.expanduser())
            found = []
            for bundle in loaded:
                served = choose(
                    bundle, self.photos, max_drop=self.max_drop, name=self.point, backbone=backbone
                )
                plan = self._plan(bundle, rivals, folder, backbone)
                with progress(f"turns, {bundle.manifest.name}", plan.steps) as advance:
                    found.append(compare(bundle, served, plan, advance))
        text = page_of(found, plan)
        if self.as_json:
            print(json.dumps({"machine": machine(), "bundles": {c.bundle: _as_json(c, plan) for c in found}}))
        else:
            Console().print(text, highlight=False, markup=False, soft_wrap=True)
        if self.page:
            self.page.write_text(text, encoding="utf-8")
            for each in found:
                plot_of(each, plan, self.page.parent / plot_name(each, plan))

    def _plan(self, bundle: Bundle, rivals: Sequence[Rival], photos: Path, backbone: Bundle | None) -> Plan:
        return Plan(
            clients=(1, 16) if self.quick else _numbers(self.clients),
            rounds=1 if self.quick else self.rounds,
            seconds=self.seconds,
            rivals=rivals,
            environments=self.environments.expanduser(),
            photos=photos,
            sent=describe(photos),
            backbone=backbone,
            turbo=self.turbo,
            point=self.point,
            megapixels=self.megapixels,
            edge=shlex.split(self.edge_args),
            cloud=_cloud(bundle) if self.cloud_args is None else shlex.split(self.cloud_args),
        )


def _rivals(wanted: str | None) -> Sequence[Rival]:
    chosen = [each for each in RIVALS if not wanted or any(part in each.name for part in wanted.split(","))]
    if not chosen:
        raise ConfigError(
            f"no rival matches '{wanted}'; choose from {', '.join(each.name for each in RIVALS)}"
        )
    return chosen


def _cloud(bundle: Bundle) -> Sequence[str]:
    split = bundle.manifest.operating_point.split_point
    return ("--blocks", f"{split}-{len(bundle.manifest.blocks)}")


def _as_json(found: Comparison, plan: Plan) -> dict[str, object]:
    many = 16 if 16 in plan.clients else plan.clients[-1]
    return {**found.ratios(plan.clients[0], many), "decode_ms": found.decode_ms, **found.model_dump()}


def _numbers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] < 1:
        raise ConfigError(f"--clients is '{text}'; give numbers of 1 or more, such as 1,16")
    return found


if __name__ == "__main__":
    run_command(Serving, sys.argv[1:], program="python -m benchmarks.serving")
