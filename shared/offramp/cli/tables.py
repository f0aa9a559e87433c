"""Shows results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from offramp.authoring.evaluation.report import Report
from offramp.bundle import Manifest
from offramp.engine.payload import Sent


def points_table(manifest: Manifest) -> Table:
    """The operating points of a bundle, with their measured accuracy and cost."""
    payload = manifest.operating_point.payload
    table = Table(
        title=f"{manifest.bundle_id}: operating points (held-out samples)",
        caption=f"bytes: mean of all requests on the socket to the next tier, payload {payload}",
    )
    for column in ("point", "thetas", "accuracy", "less work", "bytes", "exit rates"):
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
            "-" if found.request_bytes_mean is None else f"{found.request_bytes_mean:,.0f}",
            " ".join(f"{rate:.1%}" for rate in found.exit_rates),
            style="bold" if is_default else "",
        )
    return table


def report_table(report: Report) -> Table:
    """An evaluation, exit by exit, with the totals below."""
    point = report.operating_point or "thetas by hand"
    table = Table(
        title=f"{report.bundle} at {point}: {report.samples} images",
        caption=f"{report.macs_ratio:.2f} x less work than the backbone ({report.macs_backbone / 1e6:.3f} M)"
        + _sent(report)
        + ("" if report.unfamiliar_rate is None else f"; {report.unfamiliar_rate:.2%} unfamiliar")
        + _closeness(report),
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
        "ms": "" if report.ms_mean is None else f"{report.ms_mean:.3f}",
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
            "-" if exit.ms is None else f"{exit.ms:.3f}",
        )
    return table


def _sent(report: Report) -> str:
    if not report.offload_bytes_mean:
        return ""
    kinds = ", ".join(f"{share:.0%} as {_KINDS[sent]}" for sent, share in report.sent.items())
    return (
        f"; an offloaded sample sends {report.offload_bytes_mean:,.0f} bytes ({kinds}), a request "
        f"{report.request_bytes_mean:,.1f} (payload {report.payload})"
    )


_KINDS: Mapping[Sent, str] = {"feature": "feature", "image": "photo", "pixels": "the network's picture"}


def _closeness(report: Report) -> str:
    found = report.closeness
    if found is None:
        return ""
    unit = f" {found.unit}" if found.unit else ""
    return f"; {found.measure} {found.here:.4g}{unit}, of the full network {found.full:.4g}{unit}"


def quality_tables(report: Report) -> Sequence[Table]:
    """The details of an evaluation: confidence intervals, quality of the confidences, overthinking, rivals."""
    tables = [_confidences(report)]
    tables += [_overthinking(report), _alternatives(report)] if report.alternatives else []
    return [*tables, _rivals(report)] if report.rivals else tables


def _confidences(report: Report) -> Table:
    table = Table(title="confidence: which measure separates right from wrong? (bold: the exported one)")
    for column in ("exit", "accuracy, 95 %", "measure", "AUROC", "calibration error"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    intervals = {exit.number: _range(exit.accuracy_interval) for exit in report.exits}
    for one in report.measures:
        table.add_row(
            str(one.exit),
            intervals[one.exit],
            one.measure,
            "-" if one.auroc is None else f"{one.auroc:.4f}",
            f"{one.calibration_error:.3f}",
            style="bold" if one.exported else "",
        )
    return table


def _overthinking(report: Report) -> Table:
    table = Table(title="overthinking", show_header=False)
    found = report.overthinking
    for text, share in (
        ("destroyed by depth: an earlier exit right, the last one wrong", f"{found.destroyed:.2%}"),
        ("won back here", f"{found.won_back:.2%}"),
        ("spoilt here: the last exit right, the one taken wrong", f"{found.spoilt:.2%}"),
        ("accuracy of an oracle that always stops in time", f"{found.oracle_accuracy:.2%}"),
        ("its multiplications", f"{found.oracle_macs_mean / 1e6:.3f} M"),
        ("accuracy here, 95 %", _range(report.accuracy_interval)),
        ("p of the difference from the full network (McNemar)", f"{report.mcnemar_p:.3f}"),
    ):
        table.add_row(text, share)
    return table


def _alternatives(report: Report) -> Table:
    table = Table(title="other ways to use the same exits (not served)")
    for column in ("scheme", "right", "less work"):
        table.add_column(column, justify="left" if column == "scheme" else "right")
    for other in report.alternatives:
        table.add_row(
            other.scheme, f"{other.accuracy:.2%}", f"{report.macs_backbone / other.macs_mean:.2f} x"
        )
    table.add_row(
        "first confident exit (here)", f"{report.accuracy:.2%}", f"{report.macs_ratio:.2f} x", style="bold"
    )
    return table


def _rivals(report: Report) -> Table:
    table = Table(title="rivals on the same images, their cost relative to ours")
    for column in ("bundle", "right", "MACs", "ms", "only we right", "only it", "p (McNemar)"):
        table.add_column(column, justify="left" if column == "bundle" else "right")
    for rival in report.rivals:
        table.add_row(
            rival.bundle,
            f"{rival.accuracy:.2%}",
            f"{rival.macs / report.macs_mean:.2f} x",
            "-" if rival.ms is None or not report.ms_mean else f"{rival.ms / report.ms_mean:.2f} x",
            str(rival.only_right_here),
            str(rival.only_right_there),
            f"{rival.mcnemar_p:.4f}",
        )
    return table


def _range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2%} to {interval[1]:.2%}"
