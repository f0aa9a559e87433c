"""`offramp dashboard`, or `python -m offramp_dashboard`: reads settings and serves the page."""

from __future__ import annotations

import logging
import sys
from importlib import import_module

from offramp.command import run_command
from offramp.logs import start_logging
from offramp_dashboard.settings import DashboardSettings


class Dashboard(DashboardSettings):
    """Watch nodes in a browser, try photos, adjust the trade-off.

    If the edge nodes ask for keys, whoever opens the page signs in with their own key, and can do what it may.
    Every option is also a variable, DASHBOARD_PORT=8080, and a key of the file that --config names, port = 8080.

    Example: offramp dashboard --edge http://127.0.0.1:8000 --port 8080
    """

    def execute(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        start_logging()
        # httpx would log three requests a second, and those lines would hide all others.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        # Imported first, so that the error in an install without the extra names the extra.
        import_module("nicegui")

        from offramp_dashboard.server import serve

        serve(self)


if __name__ == "__main__":
    run_command(Dashboard, sys.argv[1:], program="python -m offramp_dashboard")
