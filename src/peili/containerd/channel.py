"""containerd's gRPC socket, awaited from trio: calls with a deadline, errors with a sentence for the operator."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import trio
from google.protobuf.message import DecodeError, Message

from peili.containerd.errors import ContainerdError, Failure, explain_socket
from peili.containerd.grpc_call import Call, CallEnded, NotGrpc, Status

UNARY_TIMEOUT = 10.0  # seconds for a call with one answer
MAXIMUM_MESSAGE = 16 << 20  # bytes; containerd's own default limit for what it receives
MAXIMUM_DETAIL = 300  # characters of the other side's error text that are passed on

Request_ = TypeVar("Request_", bound=Message)
Response_ = TypeVar("Response_", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Request_, Response_]):
    """A gRPC method: its path `/package.Service/Method`, and the types of its messages."""

    path: str
    request: type[Request_]
    response: type[Response_]


class Channel:
    """Calls to one unix socket. Each has a connection of its own, so that nothing outlives a restart of the server.

    `namespace` is containerd's, sent with every call; None for services that know none (the CRI).
    Every method raises ContainerdError.
    """

    def __init__(self, socket: Path, namespace: str | None = None) -> None:
        self.socket = socket
        self._metadata = (("containerd-namespace", namespace),) if namespace is not None else ()
        self._calls: set[Call] = set()
        self._closed = False

    def close(self) -> None:
        """End every call, and begin none any more."""
        self._closed = True
        for call in self._calls:
            call.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def unary(
        self, method: Method[Request_, Response_], request: Request_, *, timeout: float = UNARY_TIMEOUT
    ) -> Response_:
        """Call a method with one answer. `timeout` in seconds. Cancelling the task cancels the call."""
        async with self.stream(method, request, timeout=timeout) as messages:
            answers = [message async for message in messages]
        if len(answers) != 1:
            raise ContainerdError(
                Failure.UNSUPPORTED, f"{self.socket} answered {method.path} with {len(answers)} messages"
            )
        return answers[0]

    @asynccontextmanager
    async def stream(
        self, method: Method[Request_, Response_], request: Request_, *, timeout: float | None
    ) -> AsyncIterator[AsyncIterator[Response_]]:
        """Call a method with many answers, for the length of a `with`: the request has been sent when it begins.

        `timeout` in seconds for all of it, None: no end.
        """
        if self._closed:
            raise self.was_closed()
        try:
            call = Call(MAXIMUM_MESSAGE)
        except OSError as error:  # no descriptor left
            raise ContainerdError(
                Failure.UNAVAILABLE, f"no socket for a call to {self.socket}: {error.strerror or error}"
            ) from error
        self._calls.add(call)
        try:
            deadline = math.inf if timeout is None else trio.current_time() + timeout
            messages = _Messages(self, method, call, deadline)
            await messages.begin(request.SerializeToString(), self._metadata)
            yield messages
        finally:
            self._calls.discard(call)
            call.close()

    def was_closed(self) -> ContainerdError:
        """Our error for a call on a channel that is closed."""
        return ContainerdError(Failure.UNAVAILABLE, f"the connection to {self.socket} is closed")

    def too_slow(self, method: Method[Any, Any]) -> ContainerdError:
        """Our error for a deadline that has passed."""
        return ContainerdError(
            Failure.UNAVAILABLE, f"containerd at {self.socket} did not answer {method.path} in time"
        )

    def parse(self, method: Method[Request_, Response_], raw: bytes) -> Response_:
        """A message from its bytes."""
        try:
            return method.response.FromString(raw)
        except DecodeError as error:
            raise ContainerdError(
                Failure.UNSUPPORTED,
                f"{self.socket} answered {method.path} with what is not a message of containerd",
            ) from error

    def translate(self, method: Method[Any, Any], error: CallEnded) -> ContainerdError:
        """Our error for one of gRPC's."""
        failure, detail = _FAILURES.get(error.status, Failure.OTHER), error.detail[:MAXIMUM_DETAIL]
        if error.status == Status.DEADLINE_EXCEEDED:
            return self.too_slow(method)
        if error.status == Status.UNIMPLEMENTED:
            return ContainerdError(
                failure, f"{self.socket} has no {method.path}: not containerd, or that plugin is off ({detail})"
            )
        return ContainerdError(
            failure, f"containerd at {self.socket} answered {method.path}: {detail or f'status {error.status}'}"
        )


class _Messages(Generic[Request_, Response_]):
    """The messages of one stream. Not a generator, so that leaving it half read leaves nothing to clean up."""

    def __init__(self, channel: Channel, method: Method[Request_, Response_], call: Call, deadline: float) -> None:
        self._channel = channel
        self._method = method
        self._call = call
        self._deadline = deadline

    def __aiter__(self) -> _Messages[Request_, Response_]:
        return self

    async def begin(self, request: bytes, metadata: tuple[tuple[str, str], ...]) -> None:
        """Send the request."""
        with self._errors():
            await self._call.begin(self._channel.socket, self._method.path, request, metadata)

    async def __anext__(self) -> Response_:
        with self._errors():
            raw = await self._call.receive()
        if raw is None:
            raise StopAsyncIteration
        return self._channel.parse(self._method, raw)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise ContainerdError for all that goes wrong, and for what goes on after the deadline."""
        try:
            with trio.move_on_at(self._deadline) as scope:
                yield
        except CallEnded as error:
            raise self._channel.translate(self._method, error) from error
        except trio.ClosedResourceError as error:
            raise self._channel.was_closed() from error
        except (OSError, NotGrpc) as error:
            raise explain_socket(self._channel.socket) from error
        if scope.cancelled_caught:
            raise self._channel.too_slow(self._method)


_FAILURES: dict[int, Failure] = {
    Status.UNAVAILABLE: Failure.UNAVAILABLE,
    Status.DEADLINE_EXCEEDED: Failure.UNAVAILABLE,
    Status.CANCELLED: Failure.UNAVAILABLE,
    Status.NOT_FOUND: Failure.NOT_FOUND,
    Status.PERMISSION_DENIED: Failure.PERMISSION,
    Status.UNAUTHENTICATED: Failure.PERMISSION,
    Status.UNIMPLEMENTED: Failure.UNSUPPORTED,
}
