"""`plan`: where to cut a network and what to send, on somebody's own photos and link."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from offramp.authoring.data.listing import Listing
from offramp.authoring.data.load import open_data
from offramp.authoring.data.unlabelled import list_unlabelled
from offramp.authoring.planning.link import LinkProfile
from offramp.bundle import Bundle, Manifest, load_bundle
from offramp.bundle.manifest import Payload
from offramp.cli.options import BundleArgument, PointOption, ThetasOption, chosen_thetas
from offramp.cli.processes import node_process
from offramp.cli.progress import console, progress, warn
from offramp.cli.quantities import megabits, milliseconds
from offramp.command import Command
from offramp.engine.images import decode_image
from offramp.errors import ConfigError, DataError

if TYPE_CHECKING:
    from offramp.authoring.planning.observed import Observed
    from offramp.authoring.planning.plan import Aim, Plan
    from offramp.authoring.planning.reveal import Revealed
    from offramp.authoring.planning.rows import Overhead, Row

_WARM_UP, _ASKED = 5, 25
_ATTACK_STEPS = 400
_LOSSY: tuple[Payload, ...] = ("jpeg-85", "jpeg-50", "webp-75", "webp-50", "webp-20", "webp-10")


def _links(text: str) -> str:
    if not [link_of(word) for word in text.split()]:
        raise ValueError("write a rate and a delay, such as 5mbit,40ms")
    return text


def link_of(text: str) -> LinkProfile:
    """The link that a text such as 5mbit,40ms describes.

    Raises:
        ValueError: it describes none.
        ConfigError: it carries nothing.
    """
    rate, _, delay = text.partition(",")
    return LinkProfile(megabits(rate), milliseconds(delay or "0ms"))


class PlanSplit(Command):
    """Table every split and everything that could be sent, on your own photos and link, and name the best.

    Runs both nodes for a moment, to measure what a request and a call cost here besides computing. The cloud is taken
    to be as fast as this machine. If the folders of the photos are named after the classes of the network, accuracy is
    about them; otherwise it is agreement with the full network.

    Example: offramp plan models/b-lite0-grocery --photos samples/grocery --link 5mbit,40ms
    """

    bundle: BundleArgument
    photos: Path = Field(description="folder of photos, or a zip or tar of one")
    link: Annotated[str, AfterValidator(_links)] = Field(
        default="5mbit,40ms",
        description="rate and one-way delay of the link between edge and cloud; several in quotes, with spaces between",
    )
    payload: list[Payload] = Field(
        default=list(_LOSSY), description="lossy payload to try; may be given several times"
    )
    limit: int = Field(default=300, ge=1, description="most photos to use, spaced evenly")
    point: PointOption = None
    thetas: ThetasOption = None
    max_drop: float = Field(
        default=0.5,
        ge=0,
        description="percentage points of accuracy that a choice may lose to sending without loss",
    )
    reveal: Path | None = Field(
        default=None,
        description="also find out what each payload reveals of a photo, with a decoder trained on your photos to "
        "invert features; writes this PNG file. Needs the extra `train`, and minutes for each split",
    )
    as_json: bool = Field(default=False, alias="json", description="print one JSON object for each link")

    def execute(self) -> None:
        """Observe, work out the rows for each link, and show them."""
        from offramp.authoring.planning.observed import observe
        from offramp.authoring.planning.plan import plan

        loaded = load_bundle(self.bundle)
        manifest = loaded.manifest
        _check_plannable(manifest)
        _, thetas = chosen_thetas(manifest, self.point, self.thetas)
        listing, classes = _photos(self.photos, manifest)
        chosen = np.linspace(0, len(listing) - 1, min(self.limit, len(listing))).astype(np.int64)
        files = [partial(listing.container.read, listing.names[number]) for number in chosen]
        with progress("photos", len(files)) as advance:
            observed = observe(loaded, files, _lossy(self.payload), advance=advance)
        _say(observed)
        overhead = measured_overhead(self.bundle, [read() for read in files[: _WARM_UP + _ASKED]], observed)
        for text in self.link.split():
            found = plan(
                observed,
                thetas,
                link_of(text),
                classes_N=None if classes is None else classes[chosen],
                max_drop=self.max_drop,
                overhead=overhead,
            )
            if self.as_json:
                print(found.model_dump_json())  # noqa: T201 - the output of the command
            else:
                Console().print(plan_table(found))
                Console(soft_wrap=True).print(advice(found), highlight=False, markup=False)
        if self.reveal:
            self._reveal(loaded, files, self.reveal)

    def _reveal(self, bundle: Bundle, files: Sequence[Callable[[], bytes]], path: Path) -> None:
        from offramp.authoring.planning.reveal import picture_of, reveal

        if not path.parent.is_dir():
            raise ConfigError(f"{path} cannot be written: {path.parent} is not a directory")
        pixels = np.stack([decode_image(read(), bundle.manifest.preprocessing) for read in files])
        splits = len(bundle.manifest.blocks) - 1
        with progress("steps of attacks", splits * _ATTACK_STEPS) as advance:
            truth, found = reveal(bundle, pixels, _lossy(self.payload), steps=_ATTACK_STEPS, advance=advance)
        path.write_bytes(picture_of(truth, found))
        Console().print(reveal_table(found))
        console.print(f"{path}: photos in rows; in columns as they are, then as in the rows of this table")


def _check_plannable(manifest: Manifest) -> None:
    if len(manifest.blocks) == 1:
        raise ConfigError(f"{manifest.bundle_id} is a single block, so there is nothing to plan")
    if manifest.task.kind != "single_label":
        raise ConfigError(
            f"a plan compares classes, and {manifest.bundle_id} answers {manifest.task.kind}; see what it sends with "
            "`offramp evaluate`"
        )


def _lossy(payloads: Sequence[Payload]) -> Sequence[Payload]:
    for payload in payloads:
        if payload in ("exact", "feature"):
            raise ConfigError(f"--payload {payload} is in every plan; name lossy ones, such as webp-20")
    return list(dict.fromkeys(payloads))


def _photos(path: Path, manifest: Manifest) -> tuple[Listing, NDArray[np.int64] | None]:
    """The photos, and their classes in the bundle's numbering if their folders are named after these."""
    try:
        listing = open_data(path).find("test")
    except DataError:
        listing = list_unlabelled(path)
    if listing is None:
        raise DataError(f"{path} has no photos in files, so what they would take to send is unknown")
    console.print(listing.summary, highlight=False, markup=False, soft_wrap=True)
    if listing.labels is None or not set(listing.labels) <= set(manifest.labels):
        return listing, None
    numbers = np.array([manifest.labels.index(label) for label in listing.labels])
    return listing, numbers[listing.classes]


def _say(observed: Observed) -> None:
    preprocessing = observed.manifest.preprocessing
    if observed.all_smaller:
        warn(
            f"all photos are smaller than {preprocessing.width} x {preprocessing.height} pixels, what the network "
            "takes; its picture is larger than they are, so sending them as they came costs less"
        )


def measured_overhead(bundle: Path, files: Sequence[bytes], observed: Observed) -> Overhead:
    """What a request and a call to the next tier cost on this machine besides computing: real nodes, no link."""
    from offramp.authoring.planning.rows import Overhead

    manifest = observed.manifest
    never = [1.0] * (manifest.num_exits - 1)
    spent: dict[str, float] = {}
    common = [str(bundle), "--port", "0"]
    with (
        node_process("cloud_node", common, name="cloud") as cloud,
        node_process(
            "edge_node", [*common, "--upstream", cloud.address, "--payload", "feature"], name="edge"
        ) as edge,
        httpx.Client(base_url=f"http://{edge.address}", timeout=60, trust_env=False) as client,
    ):
        for name, thetas in {"request": [0.0] * len(never), "call": never}.items():
            client.put("/v1/policy", json={"thetas": thetas}).raise_for_status()
            found = [_besides_computing(client, file) for file in files]
            spent[name] = median(found[_WARM_UP:] or found)
    return Overhead(max(0.0, spent["request"]), max(0.0, spent["call"] - spent["request"]))


def _besides_computing(client: httpx.Client, file: bytes) -> float:
    answer = client.post("/v1/predict", content=file).raise_for_status().json()
    times = answer["timings_ms"]
    upstream = sum(time["compute"] for time in answer.get("upstream_ms") or [])
    return float(times["total"] - times["decode"] - times["edge_compute"] - upstream)


def plan_table(plan: Plan) -> Table:
    """All rows, by split; those that are best for an aim say so."""
    best: dict[int, list[str]] = {}
    for aim, number in plan.best.items():
        best.setdefault(number, []).append(_SHORT[aim])
    table = Table(
        title=f"{plan.bundle}: {plan.photos} photos, {plan.rate_mbit:g} Mbit/s, {plan.delay_ms:g} ms each way",
        caption=f"θ {' '.join(f'{theta:.3f}' for theta in plan.thetas)}; the full network: {plan.full_accuracy:.1%}. "
        f"One photo is {100 / plan.photos:.2g} points. Bytes and ms of an offloaded photo (/off), of a request (/req); "
        "the cloud's work in millions of multiplications (M)",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    judged = "right %" if plan.labelled else "as full %"
    for column in ("sent", "B/off", "B/req", "ms/off", "ms/req", judged, "M/req", "best"):
        table.add_column(column, justify="left" if column in ("sent", "best") else "right", no_wrap=True)
    heading = None
    for number, row in enumerate(plan.rows):
        if heading != (heading := _heading(row)):
            table.add_section()
            table.add_row(f"[bold]{heading}[/]")
        table.add_row(
            row.sent,
            f"{row.offload_bytes:,.0f}",
            f"{row.request_bytes:,.0f}",
            "-" if row.offload_ms is None else f"{row.offload_ms:.1f}",
            f"{row.ms:.2f}",
            f"{100 * row.accuracy:.1f}",
            f"{row.cloud_macs / 1e6:.2f}",
            " ".join(best.get(number, [])),
            style="bold" if number in best else "" if row.serve else "dim",
        )
    return table


def reveal_table(found: Sequence[Revealed]) -> Table:
    """How close an attacker comes to each photo; a photo as it came and a lossless picture are all there is to see."""
    table = Table(title="what a payload reveals of the picture, at least", box=SIMPLE_HEAD)
    for column in ("split", "sent", "PSNR, dB", "SSIM"):
        table.add_column(column, justify="left" if column == "sent" else "right")
    table.add_row("any", "photo, or picture without loss", "∞", "1.00")
    for one in found:
        split = "any" if one.split_point is None else str(one.split_point)
        table.add_row(split, one.sent, f"{one.psnr:.1f}", f"{one.ssim:.2f}")
    return table


def advice(plan: Plan) -> str:
    """One line for each aim: what is best, and how it is served."""
    lines = [
        f"Best of what this bundle can serve (the rest is dim), at most {plan.max_drop:g} points less accurate than "
        "without loss:"
    ]
    for aim, number in plan.best.items():
        row = plan.rows[number]
        lines.append(
            f"  {aim}: {row.sent}, split {row.split_point} ({row.request_bytes:,.0f} B and {row.ms:.1f} ms a request, "
            f"{row.accuracy:.1%}); edge {row.serve}"
        )
    return "\n".join(lines)


def _heading(row: Row) -> str:
    return f"split {row.split_point}" if row.split_point else "no split"


_SHORT: Mapping[Aim, str] = {
    "fewest bytes": "bytes",
    "shortest latency": "ms",
    "least work for the cloud": "cloud",
}
