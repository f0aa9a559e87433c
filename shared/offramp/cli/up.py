"""`up`: both nodes as processes of this machine, asked about real photos, and kept serving."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Annotated, Any, NoReturn

import httpx
import typer
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table

from offramp.bundle import load_bundle
from offramp.cli.errors import told_in_one_line
from offramp.cli.processes import NodeProcess, node_process
from offramp.cli.progress import progress
from offramp.errors import ConfigError, DataError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@told_in_one_line
def up(
    bundle: Annotated[Path, typer.Option(help="Bundle directory.")] = Path("models/b-lenet-fashion"),
    photos: Annotated[Path, typer.Option(help="Folder of photos, one sub-folder per class.")] = Path(
        "samples/fashion-mnist"
    ),
    edge_port: Annotated[int, typer.Option(help="Port of the edge node; 0 takes a free one.")] = 8000,
    cloud_port: Annotated[int, typer.Option(help="Port of the cloud node; 0 takes a free one.")] = 50051,
    dashboard_port: Annotated[int, typer.Option(help="Port of the live page; 0 takes a free one.")] = 8080,
    rate: Annotated[
        float, typer.Option(min=0, help="Photos per second while serving, so that the page moves.")
    ] = 5.0,
    once: Annotated[bool, typer.Option(help="Classify the photos and leave.")] = False,
) -> None:
    """Run both nodes and the live page on this machine, classify the photos, keep serving until Ctrl-C.

    Example: offramp up --bundle models/b-lenet-fashion --photos samples/fashion-mnist
    """
    load_bundle(bundle)
    files = _photos(photos)
    console = Console(soft_wrap=True)
    # A shell starts a script's background job with SIGINT ignored; who sends it all the same means it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    # Whoever started this under nohup means it to outlive the terminal.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)

    def show(line: str) -> None:
        if "event=answered" not in line:
            console.print(line, style="dim", highlight=False, markup=False)

    try:
        common = ["--bundle", str(bundle)]
        with (
            node_process(
                "cloud_node", [*common, "--port", str(cloud_port)], name="cloud", show=show
            ) as cloud,
            node_process(
                "edge_node",
                [*common, "--port", str(edge_port), "--upstream", cloud.address],
                name="edge",
                show=show,
            ) as edge,
        ):
            seen = _classify(f"http://{edge.address}", files)
            console.print(_summary(seen))
            console.print(
                f"edge   http://{edge.address}   API page: http://{edge.address}/docs   pid {edge.pid}"
            )
            console.print(f"cloud  {cloud.address}   gRPC   pid {cloud.pid}")
            console.print(f"try    curl --data-binary @{files[0]} http://{edge.address}/v1/predict")
            if degraded := sum(one.degraded for one in seen):
                raise ConfigError(
                    f"{degraded} answers were degraded although both nodes run; the lines above say why"
                )
            if not once:
                with _live_page(edge, dashboard_port, photos, show) as page:
                    console.print(f"page   {page}")
                    console.print("serving until Ctrl-C")
                    restart = f"offramp cloud --bundle {bundle} --port {_port(cloud)}"
                    _watch(edge, cloud, console, restart=restart, files=files, rate=rate)
    except KeyboardInterrupt:
        console.print("stopped")


@contextmanager
def _live_page(edge: NodeProcess, port: int, photos: Path, show: Callable[[str], None]) -> Iterator[str]:
    """Run the dashboard, if it is installed; yields its address, or how to get it."""
    if find_spec("nicegui") is None:
        yield "none: pip install 'offramp[dashboard]'"
        return
    arguments = ["--edge", f"http://{edge.address}", "--port", str(port), "--samples", str(photos)]
    with node_process("offramp_dashboard", arguments, name="dashboard", show=show) as page:
        yield f"http://{page.address}"


def _watch(
    edge: NodeProcess,
    cloud: NodeProcess,
    console: Console,
    *,
    restart: str,
    files: Sequence[Path],
    rate: float,
) -> None:
    cloud_runs = True
    stream = Thread(target=_keep_asking, args=(f"http://{edge.address}", files, rate), daemon=True)
    if rate:
        stream.start()
    while edge.is_running:
        if cloud_runs and not cloud.is_running:
            cloud_runs = False
            console.print(f"the cloud node ended: the edge answers degraded; start it again with: {restart}")
        time.sleep(0.2)
    raise ConfigError("the edge node ended by itself; what it said last is above")


def _keep_asking(address: str, files: Sequence[Path], rate: float) -> None:
    with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
        while True:
            file = random.choice(files)
            # A node that is stopping answers no more; whoever watches it says so.
            with suppress(httpx.HTTPError):
                client.post("/v1/predict", content=file.read_bytes())
            time.sleep(1 / rate)


def _port(node: NodeProcess) -> str:
    return node.address.rpartition(":")[2]


@dataclass(frozen=True)
class _Seen:
    """One photo's answer over HTTP."""

    exit_number: int
    exit_name: str
    tier: str
    right: bool
    degraded: bool
    uplink_bytes: int
    total_ms: float


def _photos(folder: Path) -> Sequence[Path]:
    files = sorted(file for file in folder.glob("*/*") if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise DataError(
            f"{folder} has no photos in sub-folders; give --photos DIR with one sub-folder per class"
        )
    return files


def _classify(address: str, files: Sequence[Path]) -> Sequence[_Seen]:
    seen = []
    with (
        httpx.Client(base_url=address, timeout=30, trust_env=False) as client,
        progress("photos", len(files)) as advance,
    ):
        for file in files:
            response = client.post(
                "/v1/predict", content=file.read_bytes(), headers={"content-type": "image/*"}
            )
            body: dict[str, Any] = response.json()
            if response.status_code != 200:
                raise ConfigError(f"{file}: {body['error']}")
            seen.append(
                _Seen(
                    exit_number=body["exit"]["number"],
                    exit_name=body["exit"]["name"],
                    tier=body["exit"]["tier"],
                    right=body["label"] == file.parent.name,
                    degraded=body["degraded"],
                    uplink_bytes=body["uplink_bytes"],
                    total_ms=body["timings_ms"]["total"],
                )
            )
            advance(1)
    return seen


def _summary(seen: Sequence[_Seen]) -> Table:
    right = sum(one.right for one in seen) / len(seen)
    degraded = sum(one.degraded for one in seen)
    table = Table(title=f"{len(seen)} photos, {right:.1%} right, {degraded} degraded")
    for column in ("left at", "tier", "photos", "", "right", "median ms", "uplink bytes each"):
        table.add_column(column, justify="right" if column not in ("left at", "tier", "") else "left")
    for number in sorted({one.exit_number for one in seen}):
        here = [one for one in seen if one.exit_number == number]
        table.add_row(
            here[0].exit_name,
            here[0].tier,
            str(len(here)),
            ProgressBar(total=len(seen), completed=len(here), width=24),
            f"{sum(one.right for one in here) / len(here):.1%}",
            f"{sorted(one.total_ms for one in here)[len(here) // 2]:.2f}",
            f"{sum(one.uplink_bytes for one in here) / len(here):.0f}",
        )
    return table


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
