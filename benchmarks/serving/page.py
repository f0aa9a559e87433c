"""The figures as tables in Markdown, and a plot for each bundle."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import onnxruntime
import psutil

from benchmarks.gallery.page import Sheet
from benchmarks.serving.measuring import Comparison, Measured, Plan

_MEANS = {
    "throughput_ratio": "requests a second, relative to the best rival",
    "latency_ratio": "median latency, relative to the fastest rival",
    "edge_cpu_ratio": "CPU time per request of the edge, relative to the best rival",
    "cpu_ratio": "CPU time per request of edge and cloud, relative to the best rival",
    "limit_share": "requests a second of the edge alone on one core, relative to a bare loop on one core",
    "non_exiting_ratio": "time of a sample that passes every exit, relative to the plain backbone in one piece",
    "decoding_share": "decoding, as a share of the time of a request of the edge alone on one core",
}
_SHARES = ("decoding_share",)


def page_of(comparisons: Sequence[Comparison], plan: Plan) -> str:
    """All results under one heading."""
    intro = (
        "# Serving\n\n"
        f"Made by `python -m benchmarks.serving`. Every rival serves the plain backbone of {_backbone(plan)}: JPEG in, "
        f"JSON out, decoded with {'simplejpeg' if plan.turbo else 'Pillow'}, in an environment of its own, with the "
        "same releases of Pillow and ONNX Runtime and the same preprocessing. Before each turn it must answer some "
        "photos as the bundle's backbone does, and each of its "
        "workers must have answered. Rivals have 2 workers, which answer one request at a time with one thread, "
        "unless their name says otherwise. Offramp serves "
        f"the early-exit network as edge ({' '.join(plan.edge) or 'no options'}) and cloud "
        f"({' '.join(plan.cloud) or 'no options'}) on the same machine; alone, the edge runs all blocks. "
        "None of its answers is degraded. It logs no single answers (`--log-level WARNING`), nor is FastAPI asked to. "
        "On one core, the edge and a bare loop of decoding and blocks are each kept to the same one, and the clients "
        f"to the others. wrk sends {plan.sent} in random order and shares the cores with the servers it measures. "
        f"Figures are medians of {plan.rounds} rounds of {plan.seconds:g} s; the servers take turns, and each is idle "
        "before its turn begins."
        f"\n\n{machine()}\n\n"
    )
    return intro + "\n".join(_section(each, plan) for each in comparisons)


def _backbone(plan: Plan) -> str:
    if plan.backbone is None:
        return "the same bundle"
    manifest = plan.backbone.manifest
    return f"{manifest.name}, in {manifest.precision}"


def machine() -> str:
    """The machine and the versions that it ran on."""
    model = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")),
        platform.processor(),
    )
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"Machine: {model}, {psutil.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}, "
        f"onnxruntime {onnxruntime.__version__}, uvicorn {version('uvicorn')}, grpcio {version('grpcio')}."
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _section(found: Comparison, plan: Plan) -> str:
    few, many = plan.clients[0], _many(plan)
    rows = [
        (_name(key), f"{value:.0%}" if key in _SHARES else f"{value:.2f}×")
        for key, value in found.ratios(few, many).items()
    ]
    rows.append(("decoding one photo, on one core without a server", f"{found.decode_ms:.2f} ms"))
    rows.append(("best rival", found.best(many)))
    ratios = Sheet(
        _title(found, plan),
        ("figure", f"with {many} clients; latency with {few}"),
        rows,
    )
    columns = (
        "server",
        *(f"/s, {clients}" for clients in plan.clients),
        *(f"p50 / p99 ms, {clients}" for clients in plan.clients),
        f"CPU µs per request, {many}",
        f"busiest process, {many}",
        "MB",
        "s to first answer",
    )
    servers = Sheet("Servers", columns, [_row(name, each, plan) for name, each in found.servers.items()])
    plot = f"![requests a second and latency]({plot_name(found, plan)})\n\n"
    return "\n".join((ratios.as_markdown(), _accuracy(found, plan), "#" + servers.as_markdown(), plot))


def _accuracy(found: Comparison, plan: Plan) -> str:
    side = "below" if found.accuracy_drop >= 0 else "above"
    text = f"On validation samples, this point is {abs(found.accuracy_drop):.2f} points {side} the plain backbone."
    if plan.point:
        text = f"It was given with `--point {plan.point}`. {text}"
    if found.test_accuracy is not None and found.test_accuracy_of_backbone is not None:
        text += (
            f" On the test images its accuracy is {found.test_accuracy:.2%}, the backbone's "
            f"{found.test_accuracy_of_backbone:.2%}."
        )
    return text + "\n"


def _row(name: str, each: Measured, plan: Plan) -> tuple[str, ...]:
    if not each.turns:
        return (name, f"failed: {each.failed}", *("–" for _ in range(2 * len(plan.clients) + 3)))
    many = _many(plan)
    parts = sorted(each.turns[0].cpu_us)
    return (
        name,
        *(f"{each.median(clients, 'per_second'):.0f}" for clients in plan.clients),
        *(
            f"{each.median(clients, 'p50_ms'):.2f} / {each.median(clients, 'p99_ms'):.1f}"
            for clients in plan.clients
        ),
        ", ".join(f"{part} {each.cpu_us(many, part):.0f}" for part in parts),
        f"{each.median(many, 'busiest'):.0%}",
        ", ".join(f"{part} {each.memory_bytes[part] / 1e6:.0f}" for part in sorted(each.memory_bytes)),
        f"{min(each.start_s):.1f}",
    )


def _many(plan: Plan) -> int:
    return 16 if 16 in plan.clients else plan.clients[-1]


def _name(key: str) -> str:
    return next(text for start, text in _MEANS.items() if key.startswith(start))


def plot_name(found: Comparison, plan: Plan) -> str:
    """File name of a bundle's plot, beside the page."""
    against = f"-against-{plan.backbone.manifest.precision}" if plan.backbone else ""
    size = f"-{plan.megapixels:g}mp" if plan.megapixels else ""
    return f"{found.bundle}{against}{size}.svg"


def _title(found: Comparison, plan: Plan) -> str:
    photos = f", photos of {plan.megapixels:g} megapixels" if plan.megapixels else ""
    return f"{found.bundle} at {found.point}{photos}"


def plot_of(found: Comparison, plan: Plan, path: Path) -> None:
    """Requests a second and median latency against the number of clients."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    clients = sorted({seen.clients for each in found.servers.values() for seen in each.turns})
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, each in found.servers.items():
        if not each.turns:
            continue
        bold = {"linewidth": 3.0} if name.startswith("Offramp") else {"linewidth": 1.2}
        left.plot(clients, [each.median(c, "per_second") for c in clients], marker="o", label=name, **bold)
        right.plot(clients, [each.median(c, "p50_ms") for c in clients], marker="o", label=name, **bold)
    for axes, what in ((left, "requests a second"), (right, "median latency, ms")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(clients, [str(c) for c in clients])
        axes.set_xlabel("clients")
        axes.set_title(what)
        axes.set_ylim(bottom=0)
    right.set_yscale("log")
    right.set_ylim(auto=True)
    left.legend(fontsize=8)
    figure.suptitle(_title(found, plan))
    figure.savefig(path)
    pyplot.close(figure)
