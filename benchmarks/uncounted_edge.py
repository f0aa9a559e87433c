"""An edge node that counts nothing, to measure what counting costs."""

from __future__ import annotations

import runpy

from offramp.serving.metrics import NodeMetrics


def _nothing(*_: object) -> None:
    pass


if __name__ == "__main__":
    for name in ("answered", "received", "refused"):
        setattr(NodeMetrics, name, _nothing)
    runpy.run_module("edge_node", run_name="__main__", alter_sys=True)
