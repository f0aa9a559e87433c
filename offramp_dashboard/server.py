"""The dashboard's own web server: watches the nodes, and serves the page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import uvicorn
from fastapi import FastAPI
from nicegui import app as nicegui
from nicegui import core, ui
from starlette.responses import PlainTextResponse, Response

from offramp.command import variable_of
from offramp.logs import line
from offramp.serving.access.hosts import CheckedHosts
from offramp.serving.listening import in_address, listening_socket
from offramp_dashboard.door import Door
from offramp_dashboard.node_client import NodeClient
from offramp_dashboard.pages.frame import Frame
from offramp_dashboard.settings import DashboardSettings
from offramp_dashboard.watch import MetricsWatch, Watch

_FAVICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'><path d='M4 24 H12 C20 24 16 8 28 8' fill='none' "
    "stroke='#2f6fde' stroke-width='5' stroke-linecap='round'/><path d='M12 24 H28' stroke='#d9822b' "
    "stroke-width='5' stroke-linecap='round'/></svg>"
)


def serve(settings: DashboardSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: the port is taken.
    """
    watches = [Watch(NodeClient(address)) for address in settings.edge]
    clouds = [MetricsWatch(NodeClient(address)) for address in settings.cloud]
    with listening_socket(settings.host, settings.port) as listening:
        app = FastAPI(
            lifespan=_watching([*watches, *clouds]), docs_url=None, redoc_url=None, openapi_url=None
        )

        async def page() -> Response | None:
            # nicegui shows this page in place of every path that is none of its own.
            if ui.context.client.request.url.path != "/":
                return PlainTextResponse("The dashboard has no such page.", 404)
            frame = Frame(watches, clouds, settings.samples)
            await ui.context.client.connected()
            await frame.connected()
            return None

        # `CheckedHosts` knows which pages may use this one. Without a list, no page is told that it may.
        core.sio.eio.cors_allowed_origins = []
        # Quasar's loading bar at the top of the page has no name for screen readers, so it is off.
        nicegui.config.quasar_config["loadingBar"]["skipHijack"] = True
        ui.run_with(
            app,
            root=page,
            title="Offramp",
            language="en-US",
            favicon=_FAVICON,
            dark=None,
            tailwind=False,
            show_welcome_message=False,
        )
        address = in_address(settings.host, listening.getsockname()[1])
        logging.getLogger("dashboard").info(line("ready", address=address, edges=",".join(settings.edge)))
        config = uvicorn.Config(
            CheckedHosts(Door(app), settings.hosts, setting=variable_of(type(settings), "allowed_hosts")),
            ws="wsproto",
            log_config=None,
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
        uvicorn.Server(config).run(sockets=[listening])


def _watching(watches: Sequence[MetricsWatch]) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(watch.run()) for watch in watches]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return lifespan
