"""The findings as a page in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.sending.measuring import Served
from offramp.authoring.planning.plan import Plan
from offramp.authoring.planning.rows import Row


@dataclass(frozen=True)
class Line:
    """One row of a plan, served over a link; evaluated_bytes: mean of a request as `evaluate` tells it."""

    link: str
    row: Row
    served: Served
    evaluated_bytes: float | None

    @property
    def off_bytes(self) -> float:
        """Largest error of what is told about bytes, as a share of those on the socket."""
        served = self.served
        told = [served.told_bytes, served.counted_bytes, self.row.request_bytes, self.evaluated_bytes]
        return max(abs(each / served.socket_bytes - 1) for each in told if each is not None)

    @property
    def off_ms(self) -> float:
        """Error of the planned latency of a request, as a share of the measured one."""
        return self.row.ms / self.served.ms - 1


def page_of(
    bundle: str,
    data: str,
    photos: int,
    thetas: Sequence[float],
    lines: Sequence[Line],
    plans: Mapping[str, Plan],
) -> str:
    """All of it."""
    rows = [
        "| link | split | sent | offloaded | socket | edge | metrics | plan | evaluate | off | planned ms "
        "| measured ms | off | planned ms, offloaded | measured |",
        "| --- " * 15 + "|",
    ]
    rows += [_row(line) for line in lines]
    parts = [
        f"# What {bundle} sends, told and measured",
        f"Made by `python -m benchmarks.sending`; {photos} test photos of {data}, θ "
        f"{' '.join(f'{theta:.3f}' for theta in thetas)}, so that many are offloaded. Bytes and milliseconds are means "
        "of a request. Each row ran as two processes with a link between them; *edge*: what its answers say, "
        "*metrics*: what the dashboard shows.",
        "\n".join(rows),
        f"Bytes: off by at most {max(line.off_bytes for line in lines):.1%}. Latency of a request: off by at most "
        f"{max(abs(line.off_ms) for line in lines):.1%}.",
        "\n".join(_choice(text, lines, plans[text]) for text in plans),
    ]
    return "\n\n".join(parts) + "\n"


def _row(line: Line) -> str:
    row, served = line.row, line.served
    evaluated = "–" if line.evaluated_bytes is None else f"{line.evaluated_bytes:,.0f}"
    return (
        f"| {line.link} | {row.split_point} | {row.sent} | {served.offloaded / served.requests:.0%} | "
        f"{served.socket_bytes:,.0f} | {served.told_bytes:,.0f} | {served.counted_bytes:,.0f} | "
        f"{row.request_bytes:,.0f} | {evaluated} | {line.off_bytes:.1%} | {row.ms:.1f} | {served.ms:.1f} | "
        f"{line.off_ms:+.1%} | {row.offload_ms or 0:.1f} | {served.offload_ms:.1f} |"
    )


def _choice(text: str, lines: Sequence[Line], plan: Plan) -> str:
    """How far the plan's choice for latency, among rows that send something, is from the fastest measured."""
    of_link = [line for line in lines if line.link == text]
    exact = next(line.row.accuracy for line in of_link)
    allowed = [line for line in of_link if line.row.accuracy >= exact - plan.max_drop / 100 - 1e-9]
    chosen = min(allowed, key=lambda line: line.row.ms)
    fastest = min(allowed, key=lambda line: line.served.ms)
    smallest_planned = min(allowed, key=lambda line: line.row.request_bytes)
    smallest = min(allowed, key=lambda line: line.served.socket_bytes)
    return (
        f"- {text}: the plan's fastest that offloads is {chosen.row.sent} at split {chosen.row.split_point} "
        f"({chosen.served.ms:.1f} ms measured), the fastest measured {fastest.row.sent} at split "
        f"{fastest.row.split_point} ({fastest.served.ms:.1f} ms): {chosen.served.ms / fastest.served.ms - 1:+.1%}. For "
        f"bytes: {smallest_planned.row.sent} ({smallest_planned.served.socket_bytes:,.0f}), measured best "
        f"{smallest.row.sent} ({smallest.served.socket_bytes:,.0f})."
    )
