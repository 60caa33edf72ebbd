"""gRPC: interceptors for `grpc.server` and `grpc.aio.server`.

The path is the method's full name, the method is POST. grpcio does not show `:authority` to
applications, so the verifier needs the option `authority`: what the gateway sends as `:authority`.
Messages are not compared with `htb`.

Refused calls end with UNAUTHENTICATED, PERMISSION_DENIED or UNAVAILABLE, and have the code in the
trailing metadata `countersign-code`. They are refused before a message is parsed. Other errors, as
of a replay store, end calls with INTERNAL: only the log has their text.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final, cast

import grpc
import grpc.aio

from ._claims import Caller
from ._errors import AssertionRefused, ConfigurationError
from ._request import HEADER_LOWERCASE, RequestParts, only_assertion
from ._verifier import AssertionVerifier

__all__ = ["AssertionInterceptor", "AsyncAssertionInterceptor", "current_caller"]

_STATUS: Final = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_CODE_KEY: Final = "countersign-code"
_FAILED: Final = "The assertion cannot be checked."

_caller: contextvars.ContextVar[Caller] = contextvars.ContextVar("countersign_caller")

_log = logging.getLogger("countersign_verify")

# grpcio has no types for handlers, contexts and messages.
_Handler = Any
_Details = Any
_Context = Any
_Behavior = Callable[[Any, _Context], Any]


def current_caller() -> Caller:
    """Return the verified caller of the call that runs. Raise LookupError outside of one."""
    return _caller.get()


class AssertionInterceptor(grpc.ServerInterceptor):
    """Lets only calls with a verified assertion reach the handlers of a `grpc.server`.

    Put it first in `interceptors`.
    """

    def __init__(self, verifier: AssertionVerifier) -> None:
        _check(verifier)
        self._verifier = verifier

    def intercept_service(
        self, continuation: Callable[[_Details], _Handler], handler_call_details: _Details
    ) -> _Handler:
        """Return a handler that verifies first.

        grpcio calls this with a lock held, so nothing may wait here. The handler runs in a thread
        of the server's pool.
        """
        handler = continuation(handler_call_details)
        if handler is None:
            # A caller without assertion must not learn which methods exist.
            handler = grpc.stream_stream_rpc_method_handler(_unimplemented)
        behavior = _behavior(handler)

        def admit(context: _Context) -> contextvars.Context:
            try:
                caller = self._verifier.verify_head(*_head(handler_call_details))
                self._verifier.admit(caller)
            except AssertionRefused as refusal:
                _log.info("refused: %s", refusal)
                context.set_trailing_metadata(((_CODE_KEY, refusal.code),))
                context.abort(_STATUS[refusal.status], str(refusal))
                raise
            except Exception:
                # grpcio would send the text of the exception to the client.
                _log.exception(_FAILED)
                context.abort(grpc.StatusCode.INTERNAL, _FAILED)
                raise
            return _with_caller(caller)

        def answer(request: Any, context: _Context) -> Any:  # noqa: ANN401
            scope = admit(context)
            return scope.run(behavior, _parsed(handler, request, context), context)

        def answer_stream(request: Any, context: _Context) -> Iterator[Any]:  # noqa: ANN401
            scope = admit(context)
            messages = scope.run(behavior, _parsed(handler, request, context), context)
            yield from _iterate(scope, messages)

        # grpcio parses a single message before it calls the handler, so `_parsed` does that.
        return _like(
            handler,
            answer_stream if handler.response_streaming else answer,
            handler.request_deserializer if handler.request_streaming else None,
        )


class AsyncAssertionInterceptor(grpc.aio.ServerInterceptor):
    """Lets only calls with a verified assertion reach the handlers of a `grpc.aio.server`.

    Put it first in `interceptors`.
    """

    def __init__(self, verifier: AssertionVerifier) -> None:
        _check(verifier)
        self._verifier = verifier

    async def intercept_service(
        self,
        continuation: Callable[[_Details], Awaitable[_Handler]],
        handler_call_details: _Details,
    ) -> _Handler:
        """Verify, and return the handler or one that refuses."""
        try:
            caller = await self._verifier.verify_head_async(*_head(handler_call_details))
            await self._verifier.admit_async(caller)
        except AssertionRefused as refusal:
            _log.info("refused: %s", refusal)
            return _aborting(_STATUS[refusal.status], str(refusal), ((_CODE_KEY, refusal.code),))
        except Exception:  # noqa: BLE001 - as in the blocking interceptor
            _log.exception(_FAILED)
            return _aborting(grpc.StatusCode.INTERNAL, _FAILED)
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return _like(handler, _async_behavior(handler, caller), handler.request_deserializer)


def _check(verifier: AssertionVerifier) -> None:
    if verifier.authority is None:
        raise ConfigurationError("grpcio does not show :authority; give the verifier `authority`")
    if verifier.requires_body:
        raise ConfigurationError("gRPC messages cannot be compared with `htb`")


def _head(details: _Details) -> tuple[str, RequestParts]:
    assertions = [
        value for key, value in details.invocation_metadata or () if key == HEADER_LOWERCASE
    ]
    return only_assertion(assertions), RequestParts("POST", (), details.method)


def _with_caller(caller: Caller) -> contextvars.Context:
    scope = contextvars.copy_context()
    scope.run(_caller.set, caller)
    return scope


def _behavior(handler: _Handler) -> _Behavior:
    if handler.request_streaming:
        found = handler.stream_stream if handler.response_streaming else handler.stream_unary
    else:
        found = handler.unary_stream if handler.response_streaming else handler.unary_unary
    return cast("_Behavior", found)


def _like(
    handler: _Handler, behavior: _Behavior, request_deserializer: Callable[[bytes], Any] | None
) -> _Handler:
    """Return a handler of the same kind with another behavior."""
    makers = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make = makers[bool(handler.request_streaming), bool(handler.response_streaming)]
    return make(
        behavior,
        request_deserializer=request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _parsed(handler: _Handler, request: Any, context: _Context) -> Any:  # noqa: ANN401
    """Parse a single message. Streams are parsed by grpcio while the handler reads them."""
    if handler.request_streaming or handler.request_deserializer is None:
        return request
    try:
        return handler.request_deserializer(request)
    except Exception:
        _log.exception("a message of a call cannot be parsed")
        context.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")
        raise


def _iterate(scope: contextvars.Context, messages: Any) -> Iterator[Any]:  # noqa: ANN401
    """Run each step of a stream of responses with the caller set, in whatever thread."""
    iterator = iter(messages)
    end = object()
    try:
        while (message := scope.run(next, iterator, end)) is not end:
            yield message
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            scope.run(close)


def _unimplemented(_requests: Any, context: _Context) -> Any:  # noqa: ANN401
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


def _aborting(
    status: grpc.StatusCode, details: str, metadata: tuple[tuple[str, str], ...] = ()
) -> _Handler:
    async def abort(_requests: Any, context: _Context) -> None:  # noqa: ANN401
        await context.abort(status, details, metadata)

    # This kind of handler starts before the first message, whatever the kind of the method.
    return grpc.stream_stream_rpc_method_handler(abort)


def _async_behavior(handler: _Handler, caller: Caller) -> _Behavior:
    """Return the behavior with the caller set, in the style in which the handler is written."""
    behavior = _behavior(handler)
    if inspect.isasyncgenfunction(behavior):

        async def generate(request: Any, context: _Context) -> AsyncIterator[Any]:  # noqa: ANN401
            _caller.set(caller)
            async for message in behavior(request, context):
                yield message

        return generate
    if inspect.iscoroutinefunction(behavior):

        async def answer(request: Any, context: _Context) -> Any:  # noqa: ANN401
            _caller.set(caller)
            return await behavior(request, context)

        return answer

    # Blocking handlers of an asynchronous server run in threads.
    if handler.response_streaming:

        def answer_stream(request: Any, context: _Context) -> Iterator[Any]:  # noqa: ANN401
            scope = _with_caller(caller)
            yield from _iterate(scope, scope.run(behavior, request, context))

        return answer_stream

    def answer_blocking(request: Any, context: _Context) -> Any:  # noqa: ANN401
        return _with_caller(caller).run(behavior, request, context)

    return answer_blocking
