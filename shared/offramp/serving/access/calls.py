"""The gate in front of a gRPC server: each method needs the right that a table says, or none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc

from offramp.serving.access.access import NOBODY, Access
from offramp.serving.access.keys import Caller, Right

_OF_A_CERTIFICATE = frozenset({Right.ASK})
_NAMES = ("x509_common_name", "x509_subject_alternative_name")


class CallGate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # it takes none when it runs
    """Lets no call through without the right. A client certificate that the server has verified gives the right ask."""

    def __init__(
        self,
        access: Access,
        rights: Mapping[str, Right | None],
        *,
        names: Sequence[str],
        refused: Callable[[str], None],
    ) -> None:
        """Stand before a server.

        Args:
            access: knows callers by their key or token.
            rights: of every method, such as /package.Service/Method; None: open to everybody. Others are refused.
            names: the certificates that may ask, by any of their names; empty: all that the server's authority signed.
            refused: called with the status of each refusal.
        """
        self._access = access
        self._rights = rights
        self._names = frozenset(names)
        self._refused = refused

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """Stand before the handler of one call."""
        handler = await continuation(details)
        right = self._rights.get(details.method, Right.CHANGE)
        if handler is None or right is None:
            return handler
        shown = dict(details.invocation_metadata or ()).get("authorization")
        return _guarded(handler, lambda context: self._check(context, shown, right))

    async def _check(self, context: Any, shown: str | bytes | None, right: Right) -> None:
        caller = self._caller(context, shown.encode() if isinstance(shown, str) else shown)
        if caller is None or caller is NOBODY:
            self._refused("unauthenticated")
            text = "this node takes calls with a valid key or certificate only"
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, text)
        elif right not in caller.rights:
            self._refused("permission_denied")
            text = f"this call needs the right {right}, and {caller.name} does not have it"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, text)

    def _caller(self, context: Any, shown: bytes | None) -> Caller | None:
        by_certificate = self._by_certificate(context)
        if self._access.is_open:
            return by_certificate
        by_key = self._access.caller(shown)
        if by_key is None or by_key is NOBODY:
            return by_key if by_certificate is NOBODY else by_certificate
        return Caller(by_key.name, by_key.rights | by_certificate.rights)

    def _by_certificate(self, context: Any) -> Caller:
        shown = context.auth_context() or {}
        names = {name.decode("utf-8", "replace") for kind in _NAMES for name in shown.get(kind, ())}
        if not names:
            return NOBODY
        called = next(iter(shown.get(_NAMES[0], ())), b"a certificate").decode("utf-8", "replace")[:64]
        may = not self._names or bool(self._names & names)
        return Caller(called, _OF_A_CERTIFICATE if may else frozenset())


def _guarded(handler: Any, check: Callable[[Any], Awaitable[None]]) -> Any:
    """The handler, behind a check of the context of each call."""
    more = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }

    async def answer(request: Any, context: Any) -> Any:
        await check(context)
        return await (handler.stream_unary if handler.request_streaming else handler.unary_unary)(
            request, context
        )

    async def stream(request: Any, context: Any) -> Any:
        await check(context)
        async for each in (handler.stream_stream if handler.request_streaming else handler.unary_stream)(
            request, context
        ):
            await check(context)  # the right may have been taken away since the call began
            yield each

    makers = {
        (False, False): (grpc.unary_unary_rpc_method_handler, answer),
        (True, False): (grpc.stream_unary_rpc_method_handler, answer),
        (False, True): (grpc.unary_stream_rpc_method_handler, stream),
        (True, True): (grpc.stream_stream_rpc_method_handler, stream),
    }
    make, behaviour = makers[handler.request_streaming, handler.response_streaming]
    return make(behaviour, **more)
