"""Stands between gRPC and the servicers: reads each call's message, within limits on what all callers may hold.

gRPC itself reads a message before it calls a servicer, and answers bytes that it cannot parse with UNKNOWN and a
traceback in the log. Here a servicer is called for every call as soon as it begins, and reads when there is room.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from cloud_node.room import Limits, Places, Room, host_of
from offramp.errors import OverloadError, RequestError
from offramp.logs import line

_log = logging.getLogger("cloud_node")

_SAY_EVERY_S = 1.0


class Door:
    """Takes the place of a `grpc.aio` server where servicers are added to it; `handlers` go to the server itself."""

    def __init__(self, limits: Limits, *, refused: Callable[[str], None]) -> None:
        """Prepare; `refused` is called with the status of each call that is refused here."""
        self.handlers: dict[str, dict[str, Any]] = {}
        self._limits = limits
        self._room = Room(limits)
        self._streams = Places(limits.streams, "open streams")
        self._refused = refused
        self._silent_until = 0.0

    def add_generic_rpc_handlers(self, handlers: Sequence[object]) -> None:
        """Nothing: generated code adds the same handlers by their names, too."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add a servicer; called by generated code."""
        self.handlers[service] = {name: self._guarded(each) for name, each in handlers.items()}

    def _guarded(self, handler: Any) -> Any:
        parse, serialize = handler.request_deserializer, handler.response_serializer

        async def answer(_: object, context: Any) -> Any:
            try:
                async with self._room.message(context) as data:
                    return await handler.unary_unary(_parsed(parse, data), context)
            except (OverloadError, RequestError) as error:
                await self._refuse(error, context)

        async def stream(_: object, context: Any) -> AsyncIterator[Any]:
            try:
                with self._streams.taken(host_of(context.peer())):
                    async for reply in replies(handler, context):
                        yield reply
            except (OverloadError, RequestError) as error:
                await self._refuse(error, context)

        replies = self._replies_to_many if handler.request_streaming else self._replies_to_one
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(stream, None, serialize)
        return grpc.stream_unary_rpc_method_handler(answer, None, serialize)

    async def _replies_to_one(self, handler: Any, context: Any) -> AsyncIterator[Any]:
        async with self._room.message(context, has_place=True) as data:
            request = _parsed(handler.request_deserializer, data)
        async for reply in handler.unary_stream(request, context):
            yield reply

    async def _replies_to_many(self, handler: Any, context: Any) -> AsyncIterator[Any]:
        parse = partial(_parsed, handler.request_deserializer)
        with closing(self._room.messages(context, parse)) as requests:
            async for reply in handler.stream_stream(requests, context):
                requests.close()  # the caller may take its time to read the reply
                yield reply

    def close(self) -> None:
        """End the calls that stay open: at once those between two messages, the others after this one."""
        self._room.close()

    async def _refuse(self, error: Exception, context: Any) -> NoReturn:
        """End the call with the status of an error; raises what ends it."""
        is_full = isinstance(error, OverloadError)
        status = grpc.StatusCode.RESOURCE_EXHAUSTED if is_full else grpc.StatusCode.INVALID_ARGUMENT
        self._refused(status.name.lower())
        self._say(status.name, error)
        await context.abort(status, str(error))
        raise AssertionError("a call that is aborted goes no further")

    def _say(self, status: str, error: Exception) -> None:
        """Log it, at most once a second: whoever sends such calls may send many."""
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _SAY_EVERY_S
            _log.warning(line("refused", status=status, detail=error))


def _parsed(parse: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return parse(data)
    except DecodeError as error:
        raise RequestError(
            f"{len(data)} bytes that are not a message of this method; see its proto"
        ) from error
