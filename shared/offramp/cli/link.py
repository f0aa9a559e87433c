"""`link`: puts a slow line between two nodes, for demonstrations."""

from __future__ import annotations

import asyncio
import re
import signal
from typing import Annotated

from pydantic import AfterValidator, Field

from offramp.cli.progress import console
from offramp.cli.quantities import a_duration, a_speed, megabits, milliseconds
from offramp.command import Command
from offramp.serving.link import Link, LinkSettings
from offramp.serving.listening import Host, in_address


def _place(text: str) -> str:
    if not re.fullmatch(r".+:\d{1,5}", text):
        raise ValueError("write HOST:PORT")
    return text


class SlowLink(Command):
    """Put a slow line between two nodes: the edge's --upstream is this port, and --target is the cloud.

    Example: offramp link --target 127.0.0.1:50051 --port 50052 --delay 40ms --rate 2mbit
    """

    target: Annotated[str, AfterValidator(_place)] = Field(
        default="127.0.0.1:50051", description="HOST:PORT of the node behind the line"
    )
    host: Host = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=50052, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    delay: Annotated[str, AfterValidator(a_duration)] = Field(
        default="0ms", description="delay in each direction, such as 40ms or 0.1s"
    )
    jitter: Annotated[str, AfterValidator(a_duration)] = Field(
        default="0ms", description="random extra delay, up to this"
    )
    rate: Annotated[str, AfterValidator(a_speed)] | None = Field(
        default=None, description="bandwidth in each direction, such as 2mbit or 500kbit"
    )

    def execute(self) -> None:
        """Carry bytes until SIGTERM or SIGINT."""
        settings = LinkSettings(
            delay_ms=milliseconds(self.delay),
            jitter_ms=milliseconds(self.jitter),
            rate_mbit=None if self.rate is None else megabits(self.rate),
        )
        asyncio.run(_hold(Link(self.target, settings, self.host, self.port)))


async def _hold(line: Link) -> None:
    ends = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ends.set)
    async with line:
        console.print(
            f"{in_address(line.host, line.port)} leads to {line.target} until Ctrl-C",
            highlight=False,
            soft_wrap=True,
        )
        await ends.wait()
    console.print(f"{line.up_bytes} bytes passed up, {line.down_bytes} down")
