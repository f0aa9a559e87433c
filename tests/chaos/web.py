"""Requests as gateways, browsers and foreign pages send them (rows 8, 17, 20)."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Sequence
from typing import Any

import httpx

from tests.chaos import files
from tests.chaos.calls import raw
from tests.chaos.nodes import Node
from tests.chaos.stage import Check, Outcome, Scenario, Stage

_FOREIGN = {"Host": "evil.example", "Origin": "http://evil.example"}
_JSON = {"content-type": "application/json"}


async def foreign_pages(stage: Stage) -> Outcome:
    """DNS rebinding: a page of a foreign host whose name leads here; and one that asks across origins."""
    edge = stage.edge()
    dashboard = stage.run("offramp_dashboard", "--edge", edge.url, "--port", "0")
    before = _thetas(edge)
    checks = []
    for name, headers in {"Host and Origin": _FOREIGN, "Origin": {"Origin": _FOREIGN["Origin"]}}.items():
        sent = _send(edge, "PUT", "/v1/policy", b'{"thetas": [0.01, 0.02]}', _JSON | headers)
        same = _thetas(edge) == before
        checks.append(Check(f"a foreign {name} does not move θ", same, f"{sent.status_code}"))
        socket = _send(dashboard, "GET", _SOCKET, b"", headers)
        refused = 400 <= socket.status_code < 500
        checks.append(
            Check(f"the dashboard's socket refuses a foreign {name}", refused, f"{socket.status_code}")
        )
    read = _send(edge, "GET", "/v1/policy", b"", {"Host": "evil.example"})
    checks.append(Check("a foreign Host reads nothing", 400 <= read.status_code < 500, f"{read.status_code}"))
    own = _send(dashboard, "GET", _SOCKET, b"", {"Origin": dashboard.url})
    checks.append(Check("the dashboard's own page is served", own.status_code == 200, f"{own.status_code}"))
    return Outcome(checks)


_SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"


def _thetas(edge: Node) -> object:
    return _send(edge, "GET", "/v1/policy", b"", {}).json()["thetas"]


def _send(node: Node, method: str, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return httpx.request(
        method, f"{node.url}{path}", content=body, headers=headers, timeout=20, trust_env=False
    )


async def malformed_requests(stage: Stage) -> Outcome:
    edge, cloud = stage.pair()
    heads = {
        "two Hosts": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        "no Host": b"GET /healthz HTTP/1.1\r\n\r\n",
        "an empty X-Request-ID": _with_photo(b"X-Request-ID: "),
        "two lengths": _with_photo(b"Content-Length: 5"),
        "a length and chunks": _with_photo(b"Transfer-Encoding: chunked"),
    }
    checks = []
    for name, head in heads.items():
        status = await _raw_http(edge, head)
        checks.append(Check(f"{name}: 400", status == 400, f"{status}"))
    for name, lines in {
        "a header of 1 MB": b"X: " + b"a" * 1_000_000,
        "10,000 headers": b"\r\n".join([b"a: b"] * 10_000),
    }.items():
        status = await _raw_http(edge, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n\r\n")
        checks.append(Check(f"{name}: refused", status in {400, 431, "hung up"}, f"{status}"))
    for method in ("Infer", "Describe"):
        code, text = await raw(cloud.address, method, b"\xff\xff\xff no message")
        checks.append(
            Check(f"{method} of no message", code.name == "INVALID_ARGUMENT", f"{code.name} {text[:50]}")
        )
    checks.append(
        Check("no traceback at the cloud", "Traceback" not in cloud.log, f"{cloud.log.count('Traceback')}")
    )
    said = _send(edge, "GET", "/openapi.json", b"", {}).json()["paths"]["/v1/policy"]["put"]["responses"]
    for body, headers in ((b"{", _JSON), (b'{"a": "\xff"}', _JSON), (b"x", {"content-type": "text/plain"})):
        status = _send(edge, "PUT", "/v1/policy", body, headers).status_code
        checks.append(Check(f"PUT /v1/policy of {body!r}: documented", str(status) in said, f"{status}"))
    return Outcome(checks)


def _with_photo(header: bytes) -> bytes:
    photo = files.small_photo()
    lines = [
        b"POST /v1/predict HTTP/1.1",
        b"Host: localhost",
        b"Content-Length: %d" % len(photo),
        header,
        b"",
        b"",
    ]
    return b"\r\n".join(lines) + photo


async def _raw_http(edge: Node, request: bytes) -> int | str:
    host, _, port = edge.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    try:
        line = await asyncio.wait_for(reader.readline(), 10)
    except TimeoutError:
        return "no answer"
    except ConnectionError:
        return "hung up"
    finally:
        writer.close()
    return int(line.split()[1]) if line else "hung up"


async def usual_requests(stage: Stage) -> Outcome:
    """What gateways and clients do every day."""
    edge = stage.edge()
    photo = files.small_photo()
    text = files.as_json(_base64(photo))
    zipped = {"content-encoding": "gzip"}
    form = {"content-type": "multipart/form-data; boundary=x"}
    cases: Sequence[tuple[str, dict[str, Any], set[int], str]] = [
        ("HEAD /healthz", {"method": "HEAD", "path": "/healthz"}, {200}, ""),
        ("HEAD /readyz", {"method": "HEAD", "path": "/readyz"}, {200}, ""),
        ("an X-Request-ID of 65 characters", {"headers": {"X-Request-ID": "a" * 65}}, {200}, ""),
        ("an X-Request-ID with #", {"headers": {"X-Request-ID": "a#b"}}, {200}, ""),
        ("a gzip body", {"body": gzip.compress(photo), "headers": zipped}, {200, 415}, "ncod"),
        ("gzip JSON", {"body": gzip.compress(text), "headers": _JSON | zipped}, {200, 415}, "ncod"),
        ("JSON with a byte-order mark", {"body": b"\xef\xbb\xbf" + text, "headers": _JSON}, {200}, ""),
        ("a form with an epilogue", {"body": files.form([photo], epilogue=b"\r\nthe end"), "headers": form}, {200}, ""),
        ("a form with line breaks after it", {"body": files.form([photo], epilogue=b"\r\n\r\n"), "headers": form},
         {200}, ""),
        ("a form without a boundary", {"body": files.form([photo]), "headers": {"content-type": "multipart/form-data"}},
         {400}, "boundary"),
    ]  # fmt: skip
    return Outcome([_usual(edge, name, given, allowed, says) for name, given, allowed, says in cases])


def _usual(edge: Node, name: str, given: dict[str, Any], allowed: set[int], says: str) -> Check:
    asked = {"method": "POST", "path": "/v1/predict", "body": files.small_photo(), "headers": {}} | given
    if asked["method"] == "HEAD":
        asked["body"] = b""
    found = _send(edge, **asked)
    true = found.status_code == 200 or (says in found.text and "ends before" not in found.text)
    return Check(name, found.status_code in allowed and true, f"{found.status_code} {found.text[:70]}")


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


SCENARIOS = [
    Scenario(
        8, "foreign-pages", "a page of a foreign host, by DNS rebinding and across origins", foreign_pages
    ),
    Scenario(
        17,
        "malformed-requests",
        "two Hosts, none; bytes that are no message; odd policies",
        malformed_requests,
    ),
    Scenario(20, "usual-requests", "HEAD, long ids, gzip, byte-order marks, epilogues", usual_requests),
]
