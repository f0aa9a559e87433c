"""One target under the fuzzer, in a process of its own: `python -m benchmarks.fuzz.child TARGET …`.

The code under test has to be imported while the fuzzer instruments it, so nothing else may import it before.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import atheris

SLOW_S = 0.1  # processor time that one input may take
_INSTRUMENTED = ["offramp", "edge_node", "cloud_node", "PIL", "python_multipart", "starlette", "uvicorn"]
_WARM_UP = 200  # inputs before times count: what is imported or compiled on first use


@dataclass
class Stats:
    """What a run has come to."""

    inputs: int = 0
    slowest_ms: float = 0.0
    found: dict[str, str] = field(default_factory=dict)  # a line on each kind of finding, by its file


class Watched:
    """Calls a target, keeps each new kind of finding as a file, and ends the process when time is up."""

    def __init__(
        self, once: Callable[[bytes], Awaitable[None]], seconds: float, found: Path, stats: Path
    ) -> None:
        self._once = once
        self._loop = asyncio.get_event_loop_policy().get_event_loop()
        self._end = time.monotonic() + seconds
        self._found, self._file = found, stats
        self._kinds: set[str] = set()
        self._stats = Stats()

    def __call__(self, data: bytes) -> None:
        """Try one input."""
        self._stats.inputs += 1
        took_s = self._try(data)
        if self._stats.inputs > _WARM_UP:
            if took_s > SLOW_S:
                gc.collect()
                took_s = min(took_s, self._try(data))  # once more: it may have been the garbage of others
            self._stats.slowest_ms = max(self._stats.slowest_ms, 1000 * took_s)
            if took_s > SLOW_S:
                self._keep(data, "slow", f"{1000 * took_s:.0f} ms of processor time")
        if time.monotonic() > self._end:
            self.finish()

    def finish(self) -> None:
        """Write down what was found, and end at once: libFuzzer would not return."""
        self._file.write_text(json.dumps(asdict(self._stats)), encoding="utf-8")
        sys.stderr.flush()
        os._exit(0)

    def _try(self, data: bytes) -> float:
        begun = time.process_time()
        try:
            self._loop.run_until_complete(self._once(data))
        except Exception as error:  # noqa: BLE001 - whatever comes is what is looked for
            took_s = time.process_time() - begun
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}:{frame.lineno}"
            self._keep(data, type(error).__name__, f"{place}: {error}"[:200])
            return took_s
        return time.process_time() - begun

    def _keep(self, data: bytes, kind: str, text: str) -> None:
        key = f"{kind} {text.partition(': ')[0]}" if kind != "slow" else kind
        if key in self._kinds:
            return
        self._kinds.add(key)
        name = f"{kind.lower()}-{hashlib.sha256(data).hexdigest()[:12]}"
        self._found.mkdir(parents=True, exist_ok=True)
        (self._found / name).write_bytes(data)
        self._stats.found[name] = f"{kind}: {text}"


def main() -> None:
    """Fuzz TARGET for SECONDS from the inputs in CORPUS; keep findings in FOUND, and figures in STATS."""
    name, seconds, corpus, found, stats = sys.argv[1:]
    with atheris.instrument_imports(include=_INSTRUMENTED):
        from benchmarks.fuzz.targets import target_named

        target = target_named(name)
    for number, seed in enumerate(target.seeds()):
        (Path(corpus) / f"seed-{number}").write_bytes(seed)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    ready = target.ready()  # kept: it would be left if it were collected
    once = loop.run_until_complete(ready.__aenter__())
    watched = Watched(once, float(seconds), Path(found), Path(stats))
    limits = ["-timeout=30", "-rss_limit_mb=3000", f"-max_len={target.MAX_BYTES}", "-len_control=20"]
    options = [f"-artifact_prefix={found}/died-", *limits]
    atheris.Setup([sys.argv[0], corpus, *options], watched, internal_libfuzzer=True)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
