"""Signing in and out: a page of plain HTML, and a cookie that only this server can read."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from html import escape
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs

from offramp.serving.access.refusing import refuse
from offramp.serving.asgi import ASGIApp, Receive, Scope, Send
from offramp_dashboard.door import answer
from offramp_dashboard.people import EVERYBODY, People, SignInError

PERSON = "offramp.person"  # in a request's scope
PATH = "/sign-in"

_PAGE = (Path(__file__).parent / "static" / "sign-in.html").read_text(encoding="utf-8")
_POLICY = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'")
_NOT_KEPT = (b"cache-control", b"no-store")
_MAX_BYTES = 16_384
_MINUTE_S = 60.0
_LONGEST_KEY = 8192


class Attempts:
    """How often somebody may try a key in a minute: from one address, and from all together."""

    def __init__(self, *, each: int = 10, together: int = 60) -> None:
        self._each = each
        self._together = together
        self._all: deque[float] = deque()
        self._by_address: OrderedDict[str, deque[float]] = OrderedDict()

    def allow(self, address: str) -> bool:
        """Count a try; says whether it may be made."""
        since = time.monotonic() - _MINUTE_S
        own = self._by_address.setdefault(address, deque())
        self._by_address.move_to_end(address)
        if len(self._by_address) > 1000:
            self._by_address.popitem(last=False)
        for tries in (own, self._all):
            while tries and tries[0] < since:
                tries.popleft()
        if len(own) >= self._each or len(self._all) >= self._together:
            return False
        for tries in (own, self._all):
            tries.append(time.monotonic())
        return True


class SignIn:
    """An ASGI application in front of the page's: lets in who has signed in, if that is needed."""

    def __init__(
        self, app: ASGIApp, people: People, *, encrypted: bool, attempts: Attempts | None = None
    ) -> None:
        """Stand before `app`; if `encrypted`, browsers send the cookie over HTTPS only."""
        self._app = app
        self._people = people
        self._cookie = "__Host-offramp" if encrypted else "offramp"
        self._secure = "; Secure" if encrypted else ""
        self._attempts = attempts or Attempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with the person who asks, or have them sign in first."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        needed = self._people.have_to_sign_in
        person = self._people.of(self._session(scope)) if needed else EVERYBODY
        if scope["path"] == PATH:
            await self._sign_in(scope, receive, send, is_in=person is not None)
        elif person is not None:
            await self._app({**scope, PERSON: person}, receive, send)
        elif scope["type"] == "http" and scope["path"] == "/" and scope["method"] == "GET":
            await _lead_to(send, PATH)
        else:
            await refuse(scope, receive, send, 401, "unauthenticated", f"sign in at {PATH} first")

    async def _sign_in(self, scope: Scope, receive: Receive, send: Send, *, is_in: bool) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD", "POST"):
            await refuse(scope, receive, send, 405, "method_not_allowed", "GET or POST it")
        elif is_in:
            await _lead_to(send, "/")
        elif scope["method"] != "POST":
            await _show(send, 200)
        elif not self._attempts.allow((scope.get("client") or ("",))[0]):
            await _show(send, 429, "Too many tries. Wait a minute.")
        else:
            key = await _key(receive)
            try:
                session = await self._people.sign_in(key)
            except SignInError as error:
                await _show(send, 401, str(error))
            else:
                await _lead_to(
                    send, "/", f"{self._cookie}={session}; Path=/; HttpOnly; SameSite=Strict{self._secure}"
                )

    def _session(self, scope: Scope) -> str | None:
        for name, value in scope["headers"]:
            if name == b"cookie":
                try:
                    found = SimpleCookie(value.decode("latin-1")).get(self._cookie)
                except CookieError:
                    continue
                if found:
                    return found.value
        return None


async def _key(receive: Receive) -> str:
    """The key of a form; empty if there is none."""
    body, more = b"", True
    while more and len(body) <= _MAX_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body, more = body + message.get("body", b""), message.get("more_body", False)
    key = parse_qs(body[:_MAX_BYTES].decode("latin-1")).get("key", [""])[0].strip()
    is_fit = key.isascii() and key.isprintable() and len(key) <= _LONGEST_KEY
    return key if is_fit else ""


async def _show(send: Send, status: int, fault: str = "") -> None:
    said = f'<p class="fault" role="alert">{escape(fault)}</p>' if fault else ""
    more = [(b"retry-after", b"60")] if status == 429 else []
    await answer(
        send,
        status,
        _PAGE.replace("<!-- fault -->", said),
        _POLICY,
        _NOT_KEPT,
        *more,
        kind="text/html; charset=utf-8",
    )


async def _lead_to(send: Send, path: str, cookie: str = "") -> None:
    more = [(b"set-cookie", cookie.encode("latin-1"))] if cookie else []
    await answer(send, 303, "", (b"location", path.encode()), _NOT_KEPT, *more)
