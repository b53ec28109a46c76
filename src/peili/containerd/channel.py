"""gRPC to a unix socket, awaited from trio.

gRPC's own thread does the input and output. A unary call wakes its trio task with a callback, so that it costs
no thread; a stream takes one worker thread while it is read, because gRPC for Python offers nothing else. Messages
of a stream are asked for one at a time, so HTTP/2's flow control holds back a fast sender.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import trio
from google.protobuf.message import DecodeError, Message

from peili.containerd.errors import ContainerdError, Failure, explain_socket

# gRPC reads these when it is imported. Its fork handlers stop threads and are not needed: Peili never forks.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # errors come back as values and are logged by their owner

import grpc

UNARY_TIMEOUT = 10.0  # seconds for a call with one answer
MAXIMUM_MESSAGE = 16 << 20  # bytes; containerd's own default limit for what it receives
MAXIMUM_STREAMS = 4  # streams read at once, and so worker threads, per channel
MAXIMUM_DETAIL = 300  # characters of the other side's error text that are passed on

_OPTIONS: tuple[tuple[str, object], ...] = (
    ("grpc.default_authority", "localhost"),  # grpc-go refuses the percent-encoded path that gRPC would send
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel must not inherit an old one's backoff
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", MAXIMUM_MESSAGE),
    ("grpc.max_send_message_length", MAXIMUM_MESSAGE),
)

Request_ = TypeVar("Request_", bound=Message)
Response_ = TypeVar("Response_", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Request_, Response_]):
    """A gRPC method: its path `/package.Service/Method`, and the types of its messages."""

    path: str
    request: type[Request_]
    response: type[Response_]


class Channel:
    """A connection to one unix socket, opened when it is first used and again whenever it is lost.

    `namespace` is containerd's, sent with every call; None for services that know none (the CRI).
    Every method raises ContainerdError and nothing else of gRPC's.
    """

    def __init__(self, socket: Path, namespace: str | None = None) -> None:
        self.socket = socket
        self._metadata = (("containerd-namespace", namespace),) if namespace is not None else ()
        self._channel: Any = grpc.insecure_channel(f"unix://{socket.absolute()}", options=_OPTIONS)
        self.limiter = trio.CapacityLimiter(MAXIMUM_STREAMS)

    def close(self) -> None:
        """End the connection and every call on it."""
        self._channel.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def unary(
        self, method: Method[Request_, Response_], request: Request_, *, timeout: float = UNARY_TIMEOUT
    ) -> Response_:
        """Call a method with one answer. `timeout` in seconds. Cancelling the task cancels the call."""
        done = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def wake(_: object) -> None:  # runs in gRPC's thread
            with suppress(trio.RunFinishedError):  # nobody waits any longer
                token.run_sync_soon(done.set)

        try:
            future = self._channel.unary_unary(method.path).future(
                request.SerializeToString(), timeout=timeout, metadata=self._metadata
            )
        except ValueError as error:  # gRPC's word for a closed channel
            raise ContainerdError(Failure.UNAVAILABLE, f"the connection to {self.socket} is closed") from error
        future.add_done_callback(wake)
        try:
            await done.wait()
        finally:
            future.cancel()
        try:
            return self.parse(method, future.result())
        except grpc.FutureCancelledError as error:
            raise ContainerdError(Failure.UNAVAILABLE, f"the connection to {self.socket} was closed") from error
        except grpc.RpcError as error:
            raise self.translate(method, error) from error

    @contextmanager
    def stream(
        self, method: Method[Request_, Response_], request: Request_, *, timeout: float | None
    ) -> Iterator[AsyncIterator[Response_]]:
        """Call a method with many answers, for the length of a `with`. `timeout` in seconds, None: no end."""
        try:
            call = self._channel.unary_stream(method.path)(
                request.SerializeToString(), timeout=timeout, metadata=self._metadata
            )
        except ValueError as error:
            raise ContainerdError(Failure.UNAVAILABLE, f"the connection to {self.socket} is closed") from error
        try:
            yield _Messages(self, method, call)
        finally:
            call.cancel()  # an abandoned worker thread wakes at this and ends

    def parse(self, method: Method[Request_, Response_], raw: bytes) -> Response_:
        """A message from its bytes."""
        try:
            return method.response.FromString(raw)
        except DecodeError as error:
            raise ContainerdError(
                Failure.UNSUPPORTED,
                f"{self.socket} answered {method.path} with what is not a message of containerd",
            ) from error

    def translate(self, method: Method[Any, Any], error: Any) -> ContainerdError:
        """Our error for one of gRPC's."""
        code, detail = error.code(), str(error.details() or "")[:MAXIMUM_DETAIL]
        if code is grpc.StatusCode.UNAVAILABLE and "connect" in detail:
            return explain_socket(self.socket)
        failure = _FAILURES.get(code, Failure.OTHER)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return ContainerdError(failure, f"containerd at {self.socket} did not answer {method.path} in time")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return ContainerdError(
                failure, f"{self.socket} has no {method.path}: not containerd, or that plugin is off ({detail})"
            )
        return ContainerdError(
            failure, f"containerd at {self.socket} answered {method.path}: {detail or code.name}"
        )


class _Messages(Generic[Request_, Response_]):
    """The messages of one stream. Not a generator, so that leaving it half read leaves nothing to clean up."""

    def __init__(self, channel: Channel, method: Method[Request_, Response_], call: Any) -> None:
        self._channel = channel
        self._method = method
        self._call = call

    def __aiter__(self) -> _Messages[Request_, Response_]:
        return self

    async def __anext__(self) -> Response_:
        try:
            raw = await trio.to_thread.run_sync(
                _next_message, self._call, abandon_on_cancel=True, limiter=self._channel.limiter
            )
        except grpc.RpcError as error:
            raise self._channel.translate(self._method, error) from error
        if raw is None:
            raise StopAsyncIteration
        return self._channel.parse(self._method, raw)


def _next_message(call: Any) -> bytes | None:
    """The next raw message, or None at the end; StopIteration must not pass through a coroutine (PEP 479)."""
    return next(call, None)


_FAILURES = {
    grpc.StatusCode.UNAVAILABLE: Failure.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Failure.UNAVAILABLE,
    grpc.StatusCode.CANCELLED: Failure.UNAVAILABLE,
    grpc.StatusCode.NOT_FOUND: Failure.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED: Failure.PERMISSION,
    grpc.StatusCode.UNAUTHENTICATED: Failure.PERMISSION,
    grpc.StatusCode.UNIMPLEMENTED: Failure.UNSUPPORTED,
}
