"""`up`: runs both nodes on this machine, classifies real photos, and keeps serving."""

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
from typing import Any, NoReturn

import httpx
from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table

from offramp.bundle import load_bundle
from offramp.cli.photos import photos_below
from offramp.cli.processes import NodeProcess, node_process
from offramp.cli.progress import progress
from offramp.command import Command
from offramp.errors import ConfigError, DataError
from offramp.install import how_to_install

_SAMPLES = Path("samples")


class Up(Command):
    """Run both nodes and the live page on this machine, classify photos, and serve until Ctrl-C.

    Example: offramp up models/b-lite0-grocery --photos samples/grocery
    """

    bundle: CliPositionalArg[Path] = Field(
        default=Path("models/b-lite0-grocery"), description="directory of the bundle"
    )
    photos: Path | None = Field(
        default=None,
        description="folder of photos, one sub-folder per class (default: in samples/, by its classes)",
    )
    edge_port: int = Field(
        default=8000, ge=0, le=65535, description="port of the edge node; 0 takes a free one"
    )
    cloud_port: int = Field(
        default=50051, ge=0, le=65535, description="port of the cloud node; 0 takes a free one"
    )
    dashboard_port: int = Field(
        default=8080, ge=0, le=65535, description="port of the live page; 0 takes a free one"
    )
    rate: float = Field(
        default=5.0,
        ge=0,
        description="photos per second while serving, so that the page has something to show",
    )
    once: bool = Field(default=False, description="classify the photos and exit")

    def execute(self) -> None:
        """Start the nodes, show how they classify the photos, and watch over them."""
        manifest = load_bundle(self.bundle).manifest
        photos = self.photos or samples_of(manifest.labels)
        files = _photos(photos) if manifest.task.kind == "single_label" else photos_below(photos)
        _end_like_ctrl_c()
        console = Console(soft_wrap=True)

        def show(line: str) -> None:
            if "event=answered" not in line:
                console.print(line, style="dim", highlight=False, markup=False)

        try:
            with self._nodes(show) as (cloud, edge):
                _introduce(cloud, edge, files, console)
                if not self.once:
                    with _live_page(edge, self.dashboard_port, photos, show) as page:
                        console.print(f"page   {page}", markup=False)
                        console.print("serving until Ctrl-C")
                        restart = f"offramp cloud {self.bundle} --port {_port(cloud)}"
                        _watch(edge, cloud, console, restart=restart, files=files, rate=self.rate)
        except KeyboardInterrupt:
            console.print("stopped")

    @contextmanager
    def _nodes(self, show: Callable[[str], None]) -> Iterator[tuple[NodeProcess, NodeProcess]]:
        bundle, cloud_port, edge_port = str(self.bundle), str(self.cloud_port), str(self.edge_port)
        with node_process("cloud_node", [bundle, "--port", cloud_port], name="cloud", show=show) as cloud:
            arguments = [bundle, "--port", edge_port, "--upstream", cloud.address]
            with node_process("edge_node", arguments, name="edge", show=show) as edge:
                yield cloud, edge


def _end_like_ctrl_c() -> None:
    # A shell starts a script's background jobs with SIGINT ignored, but an explicit SIGINT should still end them.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    # Under nohup SIGHUP is ignored, because this process should outlive the terminal.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)


def _introduce(cloud: NodeProcess, edge: NodeProcess, files: Sequence[Path], console: Console) -> None:
    seen = _classify(f"http://{edge.address}", files)
    console.print(_summary(seen))
    console.print(f"edge   http://{edge.address}   API page: http://{edge.address}/docs   pid {edge.pid}")
    console.print(f"cloud  {cloud.address}   gRPC   pid {cloud.pid}")
    console.print(f"try    curl --data-binary @{files[0]} http://{edge.address}/v1/predict")
    if degraded := sum(one.degraded for one in seen):
        raise ConfigError(
            f"{degraded} answers were degraded although both nodes run; the lines above say why"
        )


@contextmanager
def _live_page(edge: NodeProcess, port: int, photos: Path, show: Callable[[str], None]) -> Iterator[str]:
    """Run the dashboard if it is installed; yields its address, or how to install it."""
    if find_spec("nicegui") is None:
        yield f"none: {how_to_install('dashboard')}"
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
    raise ConfigError("the edge node ended by itself; its last log lines are above")


def _keep_asking(address: str, files: Sequence[Path], rate: float) -> None:
    with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
        while True:
            file = random.choice(files)
            # A node that is stopping may not answer; `_watch` reports that.
            with suppress(httpx.HTTPError):
                client.post("/v1/predict", content=file.read_bytes())
            time.sleep(1 / rate)


def _port(node: NodeProcess) -> str:
    return node.address.rpartition(":")[2]


@dataclass(frozen=True)
class _Seen:
    """One photo's answer over HTTP; whether it is right is not known for tasks beyond one label."""

    exit_number: int
    exit_name: str
    tier: str
    right: bool | None
    degraded: bool
    uplink_bytes: int
    total_ms: float


def samples_of(labels: Sequence[str]) -> Path:
    """The folder of photos that ships for these classes."""
    folders = [folder for folder in _SAMPLES.glob("*") if folder.is_dir()]
    for folder in folders:
        if {each.name for each in folder.iterdir()} <= set(labels):
            return folder
    wanted = f"photos of {', '.join(labels[:3])} …" if labels else "photos for a quantity"
    raise DataError(f"{_SAMPLES}/ has no {wanted}; give --photos DIR with one sub-folder per class")


def _photos(folder: Path) -> Sequence[Path]:
    files = [file for file in photos_below(folder) if file.parent.parent == folder]
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
                    right=body["label"] == file.parent.name if "label" in body else None,
                    degraded=body["degraded"],
                    uplink_bytes=body["uplink_bytes"],
                    total_ms=body["timings_ms"]["total"],
                )
            )
            advance(1)
    return seen


def _summary(seen: Sequence[_Seen]) -> Table:
    degraded = sum(one.degraded for one in seen)
    right = "" if seen[0].right is None else f"{_right(seen)} right, "
    table = Table(title=f"{len(seen)} photos, {right}{degraded} degraded")
    for column in ("left at", "tier", "photos", "", "right", "median ms", "uplink bytes each"):
        table.add_column(column, justify="right" if column not in ("left at", "tier", "") else "left")
    for number in sorted({one.exit_number for one in seen}):
        here = [one for one in seen if one.exit_number == number]
        table.add_row(
            here[0].exit_name,
            here[0].tier,
            str(len(here)),
            ProgressBar(total=len(seen), completed=len(here), width=24),
            _right(here),
            f"{sorted(one.total_ms for one in here)[len(here) // 2]:.2f}",
            f"{sum(one.uplink_bytes for one in here) / len(here):.0f}",
        )
    return table


def _right(seen: Sequence[_Seen]) -> str:
    known = [one.right for one in seen if one.right is not None]
    return f"{sum(known) / len(known):.1%}" if known else "-"


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
