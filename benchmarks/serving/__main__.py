"""Offramp against other servers: `python -m benchmarks.serving`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from offramp.cli.errors import told_in_one_line
from rich.console import Console

from benchmarks.serving.choosing import choose
from benchmarks.serving.measuring import Comparison, Plan, compare
from benchmarks.serving.page import machine, page_of, plot_of
from benchmarks.serving.photos import folder_of
from benchmarks.serving.rivals import RIVALS
from offramp.bundle import Bundle, load_bundle
from offramp.cli.progress import progress
from offramp.errors import ConfigError

_BUNDLES = (Path("models/b-alexnet-cifar10"), Path("models/b-resnet56-cifar10"))


@told_in_one_line
def main(
    bundles: Annotated[list[Path] | None, typer.Argument(help="Bundle directories.")] = None,
    photos: Annotated[
        Path, typer.Option(help="Folder of JPEG photos to send, or a zip with a folder test/.")
    ] = Path("data/cifar10.zip"),
    max_drop: Annotated[
        float,
        typer.Option(
            help="Serve the cheapest point at most so many points below the plain backbone, on validation."
        ),
    ] = 0.5,
    point: Annotated[
        str | None,
        typer.Option(help="Serve this point instead."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each server has its turn.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="Of each turn.")] = 3,
    clients: Annotated[str, typer.Option(help="Numbers of clients.")] = "1,4,16,64",
    only: Annotated[str | None, typer.Option(help="Rivals to ask, by a part of their names, a,b.")] = None,
    environments: Annotated[Path, typer.Option(help="Where rivals are installed, once.")] = Path(
        "~/.cache/offramp/rivals"
    ),
    edge_args: Annotated[str, typer.Option(help="Options of the edge node.")] = "--processes 2",
    cloud_args: Annotated[
        str | None, typer.Option(help="Options of the cloud node; the blocks from the split on unless given.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="One round, 1 and 16 clients, FastAPI only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    page: Annotated[
        Path | None, typer.Option(help="Also write this Markdown file, and plots beside it.")
    ] = None,
) -> None:
    """Hold Offramp against servers of the plain backbone, in one run; needs wrk and the extras train and dev.

    Example: python -m benchmarks.serving models/b-alexnet-cifar10 --photos data/cifar10.zip --quick
    """
    wanted = "FastAPI" if quick else only
    chosen = [each for each in RIVALS if not wanted or any(part in each.name for part in wanted.split(","))]
    if not chosen:
        raise ConfigError(f"no rival matches '{wanted}'; there are {', '.join(each.name for each in RIVALS)}")
    loaded = [load_bundle(path) for path in bundles or _BUNDLES]
    with folder_of(photos) as folder:
        found = []
        for bundle in loaded:
            served = choose(bundle, photos, max_drop=max_drop, name=point)
            plan = Plan(
                clients=(1, 16) if quick else _numbers(clients),
                rounds=1 if quick else rounds,
                seconds=seconds,
                rivals=chosen,
                environments=environments.expanduser(),
                photos=folder,
                edge=shlex.split(edge_args),
                cloud=_cloud(bundle) if cloud_args is None else shlex.split(cloud_args),
            )
            with progress(f"turns, {bundle.manifest.name}", plan.steps) as advance:
                found.append(compare(bundle, served, plan, advance))
    text = page_of(found, plan)
    if as_json:
        typer.echo(
            json.dumps({"machine": machine(), "bundles": {c.bundle: _as_json(c, plan) for c in found}})
        )
    else:
        Console().print(text, highlight=False, markup=False, soft_wrap=True)
    if page:
        page.write_text(text, encoding="utf-8")
        for each in found:
            plot_of(each, page.parent / f"{each.bundle}.svg")


def _cloud(bundle: Bundle) -> Sequence[str]:
    split = bundle.manifest.operating_point.split_point
    return ("--blocks", f"{split}-{len(bundle.manifest.blocks)}")


def _as_json(found: Comparison, plan: Plan) -> dict[str, object]:
    many = 16 if 16 in plan.clients else plan.clients[-1]
    return {**found.ratios(plan.clients[0], many), **found.model_dump()}


def _numbers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] < 1:
        raise ConfigError(f"--clients is '{text}'; write numbers from 1 up, as in 1,16")
    return found


if __name__ == "__main__":
    typer.run(main)
