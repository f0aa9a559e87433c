"""The comparison as a page in Markdown, and as a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.confidence.measures import Found, Part, hull_of, macs_at
from benchmarks.gallery.page import Sheet
from offramp.bundle import Manifest

BASE = "max_softmax"
_DROPS = (0.2, 0.5, 1.0, 2.0)  # percentage points below the best that max softmax reaches


def page_of(manifest: Manifest, found: Mapping[str, Found], unseen: Part, test: Part) -> str:
    """AUROC of every measure at every early exit, and its multiplications at the accuracies of max softmax."""
    best = max(accuracy for accuracy, _ in found[BASE].curve)
    targets = [best - drop / 100 for drop in _DROPS]
    base = {target: macs_at(found[BASE].curve, target) for target in targets}
    rows = []
    for name, one in found.items():
        saved = [_against(macs_at(one.curve, target), base[target]) for target in targets]
        rows.append((name, *("–" if each is None else f"{each:.4f}" for each in one.aurocs), *saved))
    columns = (
        "measure",
        *(f"AUROC, {name}" for name in manifest.exit_names[:-1]),
        *(f"MACs at {target:.2%}" for target in targets),
    )
    drops = ", ".join(f"{drop:g}" for drop in _DROPS)
    intro = (
        f"# Confidence measures of {manifest.name}\n\n"
        "Made by `python -m benchmarks.confidence`. AUROC: how well a measure tells an exit's right answers from its\n"
        f"wrong ones, on {len(test.classes_N):,} test samples. MACs: multiplications per sample on average at equal\n"
        f"test accuracy, next to max softmax. Thresholds come from {len(unseen.classes_N):,} held-out samples, and\n"
        f"what is fitted from one half of them. Accuracies lie {drops} points below the best that max\n"
        f"softmax reaches ({best:.2%}); the full network is right about {test.right[:, -1].mean():.2%}.\n\n"
    )
    return intro + Sheet("Measures", columns, rows).as_markdown() + f"\n{_verdict(found, base)}\n"


def _against(macs: float | None, base: float | None) -> str:
    if macs is None or base is None:
        return "not reached"
    return f"{macs / 1e6:.2f} M ({macs / base - 1:+.1%})"


def _verdict(found: Mapping[str, Found], base: Mapping[float, float | None]) -> str:
    saved = {}
    for name, one in found.items():
        shares = [1 - (macs_at(one.curve, target) or np.inf) / macs for target, macs in base.items() if macs]
        if name != BASE and np.isfinite(shares).all():
            saved[name] = float(np.mean(shares))
    best = max(saved, key=lambda name: saved[name])
    return (
        f"On average over these accuracies, the best of the others is {best}, with {abs(saved[best]):.1%} "
        f"{'fewer' if saved[best] > 0 else 'more'} MACs than max softmax."
    )


def plot(found: Mapping[str, Found], manifest: Manifest, path: Path) -> None:
    """Accuracy against multiplications, one line for each measure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, one in found.items():
        points = one.curve if name == "patience" else hull_of(one.curve)
        style = "*" if name == "patience" else "-"
        axes.plot([macs / 1e6 for _, macs in points], [100 * a for a, _ in points], style, label=name, lw=1.3)
    axes.set_xlabel("multiplications per sample, millions")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(manifest.name, fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
