"""What happens during a soak: clouds that pause and are replaced, junk of every kind, clients that leave."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

from tests.chaos import files, strangers
from tests.chaos.stage import Stage

_EVERY_S = 20.0


class Clouds:
    """Two clouds on fixed ports."""

    def __init__(self, stage: Stage, ports: tuple[str, str]) -> None:
        self._stage, self._ports = stage, ports
        self.nodes = [stage.cloud("--port", port) for port in ports]
        self.done: Counter[str] = Counter()

    def one_thing(self, number: int) -> None:
        """Pause, stop or kill one of them, and have it back; the kinds take turns. It waits, so call it in a thread."""
        at = number % 2
        kind = ("pause", "stop", "kill")[number // 2 % 3]
        self.done[kind] += 1
        if kind == "pause":
            self.nodes[at].pause()
            time.sleep(4)
            self.nodes[at].go_on()
            return
        node = self.nodes[at]
        node.terminate() if kind == "stop" else node.process.kill()
        node.wait(20)
        self.nodes[at] = self._stage.cloud("--port", self._ports[at])


async def trouble(clouds: Clouds, *, until_s: float) -> None:
    """Something happens to a cloud every 20 s, until so many seconds have passed."""
    loop = asyncio.get_running_loop()
    end = loop.time() + until_s
    for number in itertools.count():
        if loop.time() + _EVERY_S + 10 > end:
            return
        await asyncio.sleep(_EVERY_S)
        await asyncio.to_thread(clouds.one_thing, number)


def _junk(chosen: random.Random) -> Iterator[tuple[str, bytes]]:
    """Bodies of strangers and their content types, without end."""
    photo = files.photos()[0]
    kinds: list[tuple[str, Callable[[], bytes]]] = [
        ("image/jpeg", lambda: photo[: chosen.randrange(len(photo))]),
        ("image/jpeg", lambda: chosen.randbytes(chosen.randrange(20_000))),
        ("image/jpeg", lambda: files.repeated_scan(50, 480, 480)),
        ("image/webp", lambda: files.flat_webp(2000, 2000)),
        ("image/png", lambda: files.many_chunks(2000)),
        ("image/png", lambda: files.text_bomb(3)),
        ("application/json", lambda: files.many_keys(3000)),
        ("application/json", lambda: files.deep_json(50_000)),
        ("multipart/form-data; boundary=x", lambda: files.many_parts(200)),
        ("multipart/form-data; boundary=x", lambda: files.form([photo] * 3)[:-5]),
        ("text/html", lambda: b"<p>"),
    ]
    for kind, make in itertools.cycle(kinds):
        yield kind, make()


async def junk(address: str, count: strangers.Counting) -> None:
    """Send junk five times a second; leave some of it half sent, and some unanswered."""
    chosen = random.Random(0)
    for number, (kind, body) in enumerate(_junk(chosen)):
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(20), strangers.connected(address) as (reader, writer):
                writer.write(strangers.head(len(body), kind, "Connection: close"))
                writer.write(body[: len(body) // 2] if number % 3 == 1 else body)
                await writer.drain()
                if number % 3 == 0:
                    await reader.read()
                count.one()
        await asyncio.sleep(0.2)
