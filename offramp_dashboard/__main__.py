"""`offramp dashboard`, or `python -m offramp_dashboard`: reads settings and serves the page."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.errors import told_in_one_line
from offramp.logs import start_logging
from offramp_dashboard.settings import DashboardSettings


@told_in_one_line
def dashboard(
    edge: Annotated[
        list[str] | None, typer.Option(help="Address of an edge node; once for each of several.")
    ] = None,
    cloud: Annotated[
        list[str] | None,
        typer.Option(
            help="Address of a cloud node's /metrics, its --metrics-port; once for each of several."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Photos to try, one folder per class; may be absent.")
    ] = None,
) -> None:
    """Watch nodes in a browser, try photos, move the trade-off. Settings also come from DASHBOARD_*.

    Whoever reaches the page can change θ of the nodes, as whoever reaches the nodes can.

    Example: offramp dashboard --edge http://127.0.0.1:8000 --port 8080
    """
    start_logging()
    # A line for each of three questions a second would hide all others.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = DashboardSettings.read(
        os.environ, edge=edge or None, cloud=cloud or None, host=host, port=port, samples=samples
    )

    # First, so that an install without the extra is told which one: it may lack what an edge node has, too.
    import_module("nicegui")

    from offramp_dashboard.server import serve

    serve(settings)


if __name__ == "__main__":
    typer.run(dashboard)
