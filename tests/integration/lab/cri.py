"""A client for the CRI's image service: what a kubelet asks of containerd, in the few messages that it needs.

The messages are written by hand (k8s.io/cri-api, runtime/v1/api.proto), so that the tests do not rest on the
code that they test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

PULL_TIMEOUT = 120.0  # seconds
CALL_TIMEOUT = 20.0  # seconds
_SERVICE = "/runtime.v1.ImageService/"


class CriError(Exception):
    """containerd refused a call; `details` is what it said."""

    def __init__(self, method: str, code: str, details: str) -> None:
        super().__init__(f"{method}: {code}: {details}")
        self.code = code
        self.details = details


@dataclass(frozen=True, slots=True)
class Image:
    """An image as the CRI lists it. `identity` is the digest of its config."""

    identity: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Credentials:
    """A pull secret, as a kubelet sends it."""

    username: str
    password: str


class ImageService:
    """The image service at a containerd's socket."""

    def __init__(self, socket: Path) -> None:
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(f"unix://{socket}", options=options)

    def pull(self, image: str, credentials: Credentials | None = None, timeout: float = PULL_TIMEOUT) -> str:
        """PullImage: return the digest of the image's config; raise CriError."""
        secret = b""
        if credentials:
            secret = text(1, credentials.username) + text(2, credentials.password)
        request = _specification(image) + (message(2, secret) if secret else b"")
        return _first(self._call("PullImage", request, timeout), 1).decode()

    def remove(self, image: str) -> None:
        """RemoveImage: all names of the image that this name means."""
        self._call("RemoveImage", _specification(image))

    def images(self) -> list[Image]:
        """ListImages."""
        answer = self._call("ListImages", b"")
        return [_image(value) for number, value in _fields(answer) if number == 1]

    def status(self, image: str) -> Image | None:
        """ImageStatus: the image, or None where containerd does not have it."""
        found = _first(self._call("ImageStatus", _specification(image)), 1)
        return _image(found) if found else None

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _call(self, method: str, request: bytes, timeout: float = CALL_TIMEOUT) -> bytes:
        try:
            answer: bytes = self._channel.unary_unary(_SERVICE + method)(
                request, timeout=timeout, wait_for_ready=True
            )
        except grpc.RpcError as error:
            raise CriError(method, error.code().name, error.details()) from error
        return answer


def _specification(image: str) -> bytes:
    return message(1, text(1, image))


def _image(value: bytes) -> Image:
    fields = list(_fields(value))

    def texts(wanted: int) -> tuple[str, ...]:
        return tuple(text.decode() for number, text in fields if number == wanted)

    return Image("".join(texts(1)), texts(2), texts(3))


# The wire format of protocol buffers: as much as strings and messages need.


def varint(value: int) -> bytes:
    """A number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(number: int, value: bytes) -> bytes:
    """A field that is a message."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def text(number: int, value: str) -> bytes:
    """A field that is a string."""
    return message(number, value.encode())


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields that have a length; numbers are passed over."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        if tag & 7 == 2:
            length, at = _read_varint(data, at)
            yield tag >> 3, data[at : at + length]
            at += length
        elif tag & 7 == 0:
            _, at = _read_varint(data, at)
        else:
            raise ValueError(f"a field of wire type {tag & 7} in the CRI's answer")


def _first(data: bytes, number: int) -> bytes:
    return next((value for found, value in _fields(data) if found == number), b"")
