"""The dashboard's own web server: watches the nodes, and serves the page."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response
from nicegui import app as nicegui
from nicegui import core, ui

from offramp.command import variable_of
from offramp.errors import ConfigError
from offramp.logs import line
from offramp.serving.access.certificates import private_file
from offramp.serving.access.following import Followed
from offramp.serving.access.hosts import CheckedHosts
from offramp.serving.access.settings import warn_if_not_encrypted
from offramp.serving.access.tls import FollowingContext
from offramp.serving.listening import in_address, listening_socket
from offramp_dashboard.door import Door
from offramp_dashboard.node_client import NodeClient
from offramp_dashboard.pages.frame import Frame
from offramp_dashboard.people import People, Person
from offramp_dashboard.settings import DashboardSettings
from offramp_dashboard.sign_in import PERSON, SignIn
from offramp_dashboard.watch import MetricsWatch, Watch

# A page has one connection for what changes, and a few while it loads.
_MOST_CONNECTIONS = 1000

_FAVICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'><path d='M4 24 H12 C20 24 16 8 28 8' fill='none' "
    "stroke='#2f6fde' stroke-width='5' stroke-linecap='round'/><path d='M12 24 H28' stroke='#d9822b' "
    "stroke-width='5' stroke-linecap='round'/></svg>"
)


def serve(settings: DashboardSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: the port is taken, or a key or certificate is not fit to be used.
    """
    asking = _asking(settings)
    clients = {address: asking(address) for address in settings.edge}
    watches = [Watch(client) for client in clients.values()]
    clouds = [MetricsWatch(asking(address)) for address in settings.cloud]
    people = People(watches, clients, has_key=settings.key_file is not None, hours=settings.session_hours)
    encryption = _encryption(settings)
    with listening_socket(settings.host, settings.port) as listening:
        app = _app(_running([*(watch.run for watch in (*watches, *clouds)), people.watch]))
        _add_page(app, lambda person: Frame(people, person, watches, clouds, settings.samples))
        warn_if_not_encrypted(settings, settings.host)
        address = in_address(settings.host, listening.getsockname()[1])
        logging.getLogger("dashboard").info(line("ready", address=address, edges=",".join(settings.edge)))
        door = Door(SignIn(app, people, encrypted=bool(encryption)))
        config = uvicorn.Config(
            CheckedHosts(door, settings.hosts, setting=variable_of(type(settings), "allowed_hosts")),
            ws="wsproto",
            proxy_headers=False,
            log_config=None,
            access_log=False,
            log_level="warning",
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=1,
            **encryption,
        )
        uvicorn.Server(config).run(sockets=[listening])


def _asking(settings: DashboardSettings) -> Callable[[str], NodeClient]:
    """How to make a client of a node, with the dashboard's own key."""
    key: Callable[[], str | None] = lambda: None  # noqa: E731 - the type is what counts
    if (file := settings.key_file) is not None:
        followed = Followed([file], lambda: private_file(file).decode("latin-1").strip(), what="key_file")
        key = lambda: followed.current  # noqa: E731
    trusted = None
    if (authority := settings.ca) is not None:
        try:
            trusted = ssl.create_default_context(cafile=authority)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{authority} is no authority in PEM: {error}; give another file") from error
    return lambda address: NodeClient(address, key=key, trusted=trusted)


def _encryption(settings: DashboardSettings) -> dict[str, Any]:
    files = settings.certificate_files
    if not files.given:
        return {}
    context = FollowingContext.of(files)
    return {"ssl_context_factory": lambda *_: context}


def _app(lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]) -> FastAPI:
    return FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)


def _add_page(app: FastAPI, framed: Callable[[Person], Frame]) -> None:
    async def page() -> Response | None:
        request = ui.context.client.request
        # nicegui shows this page in place of every path that is none of its own.
        if request.url.path != "/":
            return PlainTextResponse("The dashboard has no such page.", 404)
        frame = framed(request.scope[PERSON])
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


def _running(
    jobs: Sequence[Callable[[], Coroutine[Any, Any, None]]],
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(job()) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return lifespan
