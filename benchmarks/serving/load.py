"""Load from wrk: some clients, each with one request in flight, that send photos in random order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.serving.cores import Cores, pinned
from offramp.errors import ConfigError

# Prints one line that is easy to read back: counts, microseconds, faults.
_SCRIPT = """
local photos = {}
for path in io.popen("find '%s' -type f | sort"):lines() do
  local file = io.open(path, "rb"); photos[#photos + 1] = file:read("*a"); file:close()
end
math.randomseed(0)
local headers = {["content-type"] = "image/jpeg"}
if os.getenv("API_KEY") then headers["authorization"] = "Bearer " .. os.getenv("API_KEY") end
if os.getenv("TAKES_FORM") then
  headers = {["content-type"] = "multipart/form-data; boundary=x"}
  local head = '--x\\r\\nContent-Disposition: form-data; name="content"; filename="p.jpg"\\r\\n\\r\\n'
  for at, photo in ipairs(photos) do photos[at] = head .. photo .. "\\r\\n--x--\\r\\n" end
end
init = function()
  -- Made once: to put a photo of megabytes into a request each time would take a share of the servers' cores.
  for at, photo in ipairs(photos) do photos[at] = wrk.format("POST", wrk.path, headers, photo) end
end
request = function() return photos[math.random(#photos)] end
done = function(summary, latency, requests)
  local e = summary.errors
  print(string.format("TURN %%d %%d %%d %%d %%d %%d", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(90), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""
# Each connection pauses between its requests for a random time, up to twice the mean. So together they keep to a rate,
# whether requests are answered or refused.
_PACED = """
delay = function() return math.random() * 2 * %g end
done = function(summary) print(string.format("ASKED %%f", summary.requests / summary.duration * 1e6)) end
"""
# 64 clients that send large photos wait longer than the 2 s after which wrk counts a fault by default.
_TIMEOUT_S = 60
_TURN = re.compile(r"^TURN (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Turn:
    """The results of one server over some seconds; latencies in milliseconds."""

    requests: int
    per_second: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


def write_script(path: Path, photos: Path) -> None:
    """Write wrk's script for a folder of photos.

    Raises:
        ConfigError: wrk is missing.
    """
    if shutil.which("wrk") is None:
        raise ConfigError("wrk is missing; install it, for example with apt-get install wrk")
    path.write_text(_SCRIPT % photos.resolve(), encoding="utf-8")


def write_paced_script(path: Path, photos: Path, *, pause_ms: float) -> None:
    """Write a script whose connections pause `pause_ms` milliseconds between requests, on average."""
    write_script(path, photos)
    path.write_text(path.read_text(encoding="utf-8") + _PACED % pause_ms, encoding="utf-8")


def turn(
    url: str,
    script: Path,
    *,
    clients: int,
    seconds: float,
    form: bool = False,
    cores: Cores | None = None,
    api_key: str | None = None,
) -> Turn:
    """Ask for some seconds; the photo is the body or a form field. `cores`: those that wrk may use, if not all.

    Raises:
        ConfigError: a request failed, so the figures would be worthless.
    """
    base = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}{urlsplit(url).path}"
    options = [f"-c{clients}", f"-d{seconds:g}s", f"--timeout={_TIMEOUT_S}s", "--latency", "-s", str(script)]
    variables = {
        **os.environ,
        **({"TAKES_FORM": "1"} if form else {}),
        **({"API_KEY": api_key} if api_key else {}),
    }
    with pinned(cores):
        said = subprocess.run(
            ["wrk", "-t1", *options, base], check=True, capture_output=True, text=True, env=variables
        ).stdout
    return read_turn(said, url)


def read_turn(said: str, url: str) -> Turn:
    """Read what the script printed.

    Raises:
        ConfigError: it printed nothing, or requests failed.
    """
    found = _TURN.search(said)
    if not found:
        raise ConfigError(f"wrk printed no figures for {url}: {said.strip()[-300:]}")
    requests, duration_us, p50, p90, p99, faults = (int(text) for text in found.groups())
    if not requests:
        raise ConfigError(
            f"no request to {url} was answered in {duration_us / 1e6:.1f} s; give more --seconds"
        )
    if faults:
        raise ConfigError(f"{faults} of {requests} requests to {url} failed, so its figures are worthless")
    return Turn(requests, requests / duration_us * 1e6, p50 / 1000, p90 / 1000, p99 / 1000)
