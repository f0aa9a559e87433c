"""uvicorn's HTTP/1.1 with limits. What a client asked for ends when the client leaves."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_remote_addr

from offramp.serving.asgi import Scope
from offramp.serving.http.clients import client_at, put_connection, until_left
from offramp.serving.http.counting import RequestCounts
from offramp.serving.http.door import Door, Stage
from offramp.serving.http.in_turns import InTurns
from offramp.serving.http.limits import LINGER_BYTES, MUCH_BYTES, SKIPPED_BYTES
from offramp.serving.http.one_write import OneWrite, is_reset
from offramp.serving.http.pace import Rest
from offramp.serving.http.refused import FULL, LATE, MALFORMED, RefusedRequestError

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_TELL_S = 1.0  # for a client to see that its connection is one too many
_LOOK_S = 0.02  # until it is looked for the first time whether a client that sends no more is still there


class Connection(HttpToolsProtocol):
    """One connection of a client."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        door = getattr(self.config, "door", None)
        assert isinstance(door, Door), "an HttpConfig has a door"
        self.door = door
        self.peer = ""
        self.stage = Stage.HEAD
        self.since = self.loop.time()
        self.is_lost = self._is_admitted = False
        self._counts: RequestCounts | None = None  # of the request that is arriving
        self._running: RequestResponseCycle | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_deaf = False  # whatever still comes is thrown away
        self._is_half = False  # the client will send no more, but wants its answers
        self._ignored_bytes = 0

    def admitted(self, transport: asyncio.Transport) -> bool:
        """Count a connection, if there is room for it; its handshake may follow."""
        self.transport = transport
        self.peer = client_at(get_remote_addr(transport))
        self._is_admitted = self.door.admit(self, self.loop)
        return self._is_admitted

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Begin a connection, or refuse it."""
        is_admitted = self._is_admitted or self.admitted(transport)
        self._in_turns = InTurns(transport)
        wrapped = OneWrite(self._in_turns, self.loop, self._lingers)
        super().connection_made(cast("asyncio.Transport", wrapped))
        self._rest = Rest(self.door.pace, self.flow, self.loop)
        if is_admitted:
            return
        if self.door.may_tell(self):
            self.loop.call_later(_TELL_S, self.abandon)
            self._refuse(FULL)
        else:
            self.abandon()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, so nobody waits for what it asked."""
        self.is_lost = True
        self.door.remove(self)
        self._rest.end()
        self.pipeline.clear()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._stop_work()

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        if len(data) >= MUCH_BYTES:
            self.door.turns.wait(self._in_turns, self.loop)
        if self._is_deaf:
            self._ignored_bytes += len(data)
            if self._ignored_bytes > LINGER_BYTES:
                self.abandon()
            return
        counts = self._counts
        super().data_received(data)
        if counts is not None and counts is self._counts and counts.in_head and not self._is_deaf:
            # The parser says nothing of a header that is not complete.
            try:
                counts.more_head(len(data))
            except RefusedRequestError as refusal:
                self._refuse(refusal)
        self._move()

    def eof_received(self) -> bool | None:  # type: ignore[override] # uvicorn's says nothing
        """The client sends no more: it has gone, or it waits for the answers to what it sent."""
        if self.scheme == "https" or self._is_deaf or not self._is_working or self.cycle.more_body:
            return None
        self.cycle.keep_alive = False
        self._is_deaf = self._is_half = True
        self._look_for_client(_LOOK_S)
        return True

    def _look_for_client(self, again_s: float) -> None:
        """End the work if the client has closed its side as a whole.

        Half a connection and none look the same until something is sent: an interim answer, which every client ignores.
        """
        if self.is_lost or not self._is_working:
            return
        running = self._running
        assert running is not None
        if is_reset(self.transport):
            self.transport.abort()
            return
        if not running.response_started and running.scope["http_version"] != "1.0":
            self.transport.write(_CONTINUE)
        self.loop.call_later(again_s, self._look_for_client, min(1.0, 2 * again_s))

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._rest.asked()
        put_connection(cast("Scope", self.scope), self)
        self._counts = RequestCounts()
        self._counts.queued(len(self.pipeline))

    def on_url(self, url: bytes) -> None:
        """A part of the target has come."""
        assert self._counts is not None
        self._counts.url(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come, or a trailer, which nothing here needs."""
        counts = self._counts
        assert counts is not None
        name = name.lower()
        counts.header(name, value)
        if counts.in_head:
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head has come: the application begins."""
        assert self._counts is not None
        self._counts.head_done(self.parser.get_http_version())
        before = self.cycle
        super().on_headers_complete()
        if self.door.is_draining:
            if before is not None:
                before.keep_alive = True  # it is not the last one any more
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A piece of the body has come."""
        assert self._counts is not None
        self._counts.body(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._counts = None
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if self._refuses(cycle):
            return
        self._task = task = self.loop.create_task(cycle.run_asgi(partial(until_left, app)))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _refuses(self, cycle: RequestResponseCycle) -> bool:
        """Whether a request was refused because its path is full; those whose connection must close are passed on."""
        refusal = self.door.full_path(cycle.scope["method"], cycle.scope["path"])
        if refusal is None or not cycle.keep_alive or self.door.is_draining or self.has_much_to_come:
            return False
        cycle.response_started = cycle.response_complete = True
        self.transport.write(refusal.written)
        refusal.refused()
        self.on_response_complete()
        self.rest()
        return True

    def on_response_complete(self) -> None:
        """An answer was written; the next request's turn."""
        super().on_response_complete()
        if self.has_much_to_come:
            self.transport.close()
        self._move()

    def send_400_response(self, msg: str) -> None:
        """The parser has given up."""
        self.door.malformed.count(self.peer)
        self._refuse((self._counts and self._counts.refusal) or MALFORMED)

    def resume_writing(self) -> None:
        """The client takes its answer again."""
        super().resume_writing()
        self.since = self.loop.time()

    def shutdown(self) -> None:
        """The server stops: the next answer is the last, and nobody waits for a next request for long."""
        self.start_draining()
        if not self._is_working:
            self.loop.call_later(self.door.limits.last_s, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._is_working:
            self.transport.close()

    def start_draining(self) -> None:
        """What is in progress gets the last answer on this connection."""
        if self._is_working:
            self.cycle.keep_alive = False

    def rest(self) -> None:
        """Leave the connection unread for a while if its client asks again at once; call this after a refusal."""
        if not self.is_lost:
            self._rest.refused()

    @property
    def has_much_to_come(self) -> bool:
        """Whether so much of a request is not there yet that it had better not be sent, if its answer is known."""
        return self._counts is not None and self._counts.unread > SKIPPED_BYTES

    @property
    def is_all_here(self) -> bool:
        """Whether all requests that have begun have come as a whole."""
        return self._counts is None

    @property
    def is_stuck(self) -> bool:
        """Whether the client does not take what is sent to it."""
        return self.flow.write_paused or self.transport.is_closing()

    def late(self) -> None:
        """Close the connection because a request did not arrive in time."""
        if self._is_deaf or self._counts is None:
            self.abandon()
        else:
            self._refuse(LATE)

    def abandon(self) -> None:
        """Close the connection; work for it ends."""
        self._is_deaf = True
        self.transport.abort()

    @property
    def _is_working(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _move(self) -> None:
        if self._is_working:
            stage = Stage.BODY if self.cycle.more_body else Stage.ANSWER
        else:
            stage = Stage.IDLE if self._counts is None and self.cycle is not None else Stage.HEAD
        self.door.move(self, stage, self.loop.time())

    def _stop_work(self) -> None:
        if self._is_working:
            assert self._running is not None
            assert self._task is not None
            self._running.disconnected = True
            self._running.message_event.set()
            self._task.cancel()

    def _refuse(self, refusal: RefusedRequestError) -> None:
        """Answer what the application does not, and hear no more; whole requests before it are answered first."""
        if self._is_deaf or self.transport.is_closing():
            return
        self._is_deaf = True
        if self._is_working and self.cycle.more_body and self.pipeline:
            self.pipeline.popleft()  # the one that is broken
        elif self._is_working and self.cycle.more_body:
            self._stop_work()
            if not self.cycle.response_started:
                self.transport.write(refusal.written)
            self.transport.close()
            return
        if self._is_working:
            last = self.pipeline[0][0] if self.pipeline else self._running
            assert last is not None
            last.keep_alive = False
        else:
            self.transport.write(refusal.written)
            self.transport.close()

    def _lingers(self) -> bool:
        """Whether a client that has its answer may still be sending; closing now would reset the connection."""
        sends = (self._is_deaf and not self._is_half) or self._counts is not None
        if self.is_lost or not sends or not self.transport.can_write_eof():
            return False
        self._is_deaf = True
        self.flow.resume_reading()
        return True
