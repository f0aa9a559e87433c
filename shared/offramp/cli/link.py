"""`link`: a bad line between two nodes, for demonstrations."""

from __future__ import annotations

import asyncio
import re
import signal
from typing import Annotated

import typer

from offramp.cli.errors import told_in_one_line
from offramp.cli.progress import console
from offramp.errors import ConfigError
from offramp.serving.link import Link, LinkSettings

_MILLISECONDS = {"ms": 1.0, "s": 1000.0}
_MEGABITS = {"kbit": 1e-3, "mbit": 1.0, "gbit": 1e3}


@told_in_one_line
def link(
    target: Annotated[str, typer.Option(help="HOST:PORT of the node behind the line.")] = "127.0.0.1:50051",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 50052,
    delay: Annotated[str, typer.Option(help="One way, as in 40ms or 0.1s.")] = "0ms",
    jitter: Annotated[str, typer.Option(help="Added to the delay at random, up to this.")] = "0ms",
    rate: Annotated[str | None, typer.Option(help="In each direction, as in 2mbit or 500kbit.")] = None,
) -> None:
    """Put a slow line between two nodes: the edge's --upstream is this port, --target the cloud.

    Example: offramp link --target 127.0.0.1:50051 --port 50052 --delay 40ms --rate 2mbit
    """
    if not re.fullmatch(r".+:\d{1,5}", target):
        raise ConfigError(f"--target is '{target}'; write HOST:PORT")
    settings = LinkSettings(
        delay_ms=_quantity("--delay", delay, _MILLISECONDS),
        jitter_ms=_quantity("--jitter", jitter, _MILLISECONDS),
        rate_mbit=None if rate is None else _quantity("--rate", rate, _MEGABITS),
    )
    asyncio.run(_hold(Link(target, settings, host, port)))


async def _hold(line: Link) -> None:
    ends = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ends.set)
    try:
        async with line:
            console.print(
                f"{line.host}:{line.port} leads to {line.target} until Ctrl-C",
                highlight=False,
                soft_wrap=True,
            )
            await ends.wait()
    except OSError as error:
        raise ConfigError(f"cannot listen on {line.host}:{line.port}: {error.strerror}") from error
    console.print(f"{line.up_bytes} bytes passed up, {line.down_bytes} down")


def _quantity(option: str, text: str, units: dict[str, float]) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]+)", text.strip().lower())
    if not found or found[2] not in units:
        raise ConfigError(f"{option} is '{text}'; write a number and one of {', '.join(units)}")
    return float(found[1]) * units[found[2]]
