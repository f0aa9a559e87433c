"""Results as tables on a terminal."""

from __future__ import annotations

from rich.table import Table

from offramp.bundle import Manifest
from offramp.evaluation.report import Report


def points_table(manifest: Manifest) -> Table:
    """The operating points of a bundle and what they were measured to do."""
    table = Table(title=f"{manifest.bundle_id}: operating points (held-out samples)")
    for column in ("point", "thetas", "accuracy", "less work", "exit rates"):
        table.add_column(column, justify="left" if column == "point" else "right")
    for point in manifest.operating_points:
        found = point.measured
        is_default = point.name == manifest.default_operating_point
        name = f"{point.name} *" if is_default else point.name
        thetas = " ".join(f"{theta:.3f}" for theta in point.thetas)
        if found is None:
            table.add_row(name, thetas, "not measured")
            continue
        table.add_row(
            name,
            thetas,
            f"{found.accuracy:.2%}",
            f"{manifest.backbone_macs / found.macs_mean:.2f} x",
            " ".join(f"{rate:.1%}" for rate in found.exit_rates),
            style="bold" if is_default else "",
        )
    return table


def report_table(report: Report) -> Table:
    """An evaluation, exit by exit, with the totals below."""
    point = report.operating_point or "thetas by hand"
    table = Table(
        title=f"{report.bundle} at {point}: {report.samples} images",
        caption=f"{report.macs_ratio:.2f} x less work than the backbone ({report.macs_backbone / 1e6:.3f} M)",
        show_footer=True,
    )
    columns = {
        "exit": "all",
        "tier": f"{report.offload_rate:.1%} offloaded",
        "theta": "",
        "if all left": "",
        "left": "100.0%",
        "right": f"{report.accuracy:.2%}",
        "MACs": f"{report.macs_mean / 1e6:.3f} M",
    }
    for column, footer in columns.items():
        table.add_column(column, footer, justify="left" if column in ("exit", "tier") else "right")
    for exit in report.exits:
        table.add_row(
            str(exit.number),
            exit.tier,
            "-" if exit.theta is None else f"{exit.theta:.3f}",
            f"{exit.accuracy:.2%}",
            f"{exit.rate:.1%}",
            "-" if exit.accuracy_left is None else f"{exit.accuracy_left:.2%}",
            f"{exit.macs / 1e6:.3f} M",
        )
    return table
