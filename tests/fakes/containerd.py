"""A gRPC server that plays containerd, with the corners that a real one rarely shows."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from peili.containerd.api import (
    content_pb2,
    event_types_pb2,
    events_pb2,
    images_pb2,
    introspection_pb2,
    namespaces_pb2,
    version_pb2,
)

VERSION = "/containerd.services.version.v1.Version/Version"
PLUGINS = "/containerd.services.introspection.v1.Introspection/Plugins"
SERVER = "/containerd.services.introspection.v1.Introspection/Server"
NAMESPACES = "/containerd.services.namespaces.v1.Namespaces/List"
IMAGES = "/containerd.services.images.v1.Images/List"
IMAGE = "/containerd.services.images.v1.Images/Get"
CONTENT = "/containerd.services.content.v1.Content/List"
INFO = "/containerd.services.content.v1.Content/Info"
SUBSCRIBE = "/containerd.services.events.v1.Events/Subscribe"
NAMESPACE = "k8s.io"
CHUNK = 100  # containerd sends a listing in messages of a hundred


class FakeContainerd:
    """What it lists, and how it misbehaves. Used from any thread; gRPC's threads answer.

    `errors`: method path -> status code of every call. `garbage`: method path -> raw answer. `held`: method paths
    that do not answer before `release`. `calls`: how often each method was called.
    """

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "containerd.sock"
        self.root = directory / "content"
        (self.root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        self.exports_root = True
        self.version = "9.9.9"
        self.content: dict[str, int] = {}
        self.images: dict[str, tuple[str, str, int]] = {}
        self.errors: dict[str, grpc.StatusCode] = {}
        self.garbage: dict[str, bytes] = {}
        self.held: set[str] = set()
        self.calls: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()  # calls that are over, also those that the client cancelled
        self.metadata: list[tuple[str, str]] = []
        self.chunk_delay = threading.Event()  # set it to have List wait for `release` after its first message
        self._released = threading.Event()
        self._subscribers: list[queue.Queue[events_pb2.Envelope | None]] = []
        self._lock = threading.Lock()
        self._server: Any = None

    def start(self) -> None:
        """Listen; again after `stop`."""
        self._released.clear()
        self._server = grpc.server(ThreadPoolExecutor(max_workers=16), handlers=(_Handlers(self),))
        self._server.add_insecure_port(f"unix://{self.socket}")
        self._server.start()

    def stop(self) -> None:
        """Close every connection at once."""
        self._released.set()
        with self._lock:
            for subscriber in self._subscribers:
                subscriber.put(None)
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def release(self) -> None:
        """Let what was held answer."""
        self._released.set()

    def add_blob(self, content: bytes, *, listed: bool = True, size: int | None = None) -> str:
        """Commit a blob as containerd does, by a rename; return its digest."""
        encoded = hashlib.sha256(content).hexdigest()
        ingest = self.root / f"ingest-{encoded}"
        ingest.write_bytes(content)
        ingest.rename(self.path(f"sha256:{encoded}"))
        if listed:
            self.content[f"sha256:{encoded}"] = len(content) if size is None else size
        return f"sha256:{encoded}"

    def path(self, digest: str) -> Path:
        """Where a blob lies."""
        return self.root / "blobs" / "sha256" / digest.partition(":")[2]

    def add_image(self, name: str, media_type: str, digest: str, size: int) -> None:
        """Create or update an image record and say so."""
        known = name in self.images
        self.images[name] = (media_type, digest, size)
        if known:
            self.publish("/images/update", event_types_pb2.ImageUpdate(name=name))
        else:
            self.publish("/images/create", event_types_pb2.ImageCreate(name=name))

    def remove_image(self, name: str) -> None:
        """Delete an image record and say so; its blobs stay, as before containerd's garbage collection."""
        self.images.pop(name, None)
        self.publish("/images/delete", event_types_pb2.ImageDelete(name=name))

    def publish(self, topic: str, event: Message, namespace: str = NAMESPACE) -> None:
        """Send an event to every subscriber."""
        envelope = events_pb2.Envelope(namespace=namespace, topic=topic)
        envelope.event.Pack(event)
        with self._lock:
            for subscriber in self._subscribers:
                subscriber.put(envelope)

    @property
    def subscribed(self) -> int:
        """How many subscriptions are open."""
        return len(self._subscribers)

    def answer(self, path: str, request: bytes, context: Any) -> Iterator[bytes]:
        """The raw messages of one call."""
        self.calls[path] += 1
        context.add_callback(lambda: self.ended.update([path]))
        self.metadata = [(key, value) for key, value in context.invocation_metadata()]
        if path in self.held:
            self._released.wait()
        if path in self.errors:
            context.abort(self.errors[path], "as the test wants it")
        if path in self.garbage:
            yield self.garbage[path]
            return
        for message in _ANSWERS[path](self, request, context):
            yield message.SerializeToString()

    def subscribe(self, context: Any) -> Iterator[Message]:
        """Events until the client leaves."""
        mine: queue.Queue[events_pb2.Envelope | None] = queue.Queue()
        context.add_callback(lambda: mine.put(None))
        with self._lock:
            self._subscribers.append(mine)
        try:
            while (envelope := mine.get()) is not None:
                yield envelope
        finally:
            with self._lock:
                self._subscribers.remove(mine)

    def list_content(self) -> Iterator[Message]:
        """All records in chunks."""
        records = [content_pb2.Info(digest=digest, size=size) for digest, size in self.content.items()]
        for start in range(0, len(records), CHUNK):
            yield content_pb2.ListContentResponse(info=records[start : start + CHUNK])
            if self.chunk_delay.is_set():
                self._released.wait()


@contextmanager
def running(directory: Path) -> Iterator[FakeContainerd]:
    """A started fake with its files in `directory`."""
    fake = FakeContainerd(directory)
    fake.start()
    try:
        yield fake
    finally:
        fake.stop()


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC has no types
    def __init__(self, fake: FakeContainerd) -> None:
        self._fake = fake

    def service(self, details: Any) -> Any:
        path = details.method
        if path not in _ANSWERS:
            return None
        if path in (CONTENT, SUBSCRIBE):
            return grpc.unary_stream_rpc_method_handler(lambda r, c: self._fake.answer(path, r, c))
        return grpc.unary_unary_rpc_method_handler(lambda r, c: next(self._fake.answer(path, r, c)))


def _image(fake: FakeContainerd, name: str) -> images_pb2.Image:
    media_type, digest, size = fake.images[name]
    image = images_pb2.Image(name=name)
    image.target.media_type, image.target.digest, image.target.size = media_type, digest, size
    return image


def _get_image(fake: FakeContainerd, request: bytes, context: Any) -> list[Message]:
    name = images_pb2.GetImageRequest.FromString(request).name
    if name not in fake.images:
        context.abort(grpc.StatusCode.NOT_FOUND, f"image {name!r}: not found")
    return [images_pb2.GetImageResponse(image=_image(fake, name))]


def _info(fake: FakeContainerd, request: bytes, context: Any) -> list[Message]:
    digest = content_pb2.InfoRequest.FromString(request).digest
    if digest not in fake.content:
        context.abort(grpc.StatusCode.NOT_FOUND, f"content {digest}: not found")
    return [content_pb2.InfoResponse(info=content_pb2.Info(digest=digest, size=fake.content[digest]))]


def _plugins(fake: FakeContainerd, _request: bytes, _context: Any) -> list[Message]:
    plugin = introspection_pb2.Plugin(type="io.containerd.content.v1", id="content")
    if fake.exports_root:
        plugin.exports["root"] = str(fake.root)
    return [introspection_pb2.PluginsResponse(plugins=[plugin])]


_ANSWERS: dict[str, Callable[[FakeContainerd, bytes, Any], Any]] = {
    VERSION: lambda fake, _r, _c: [version_pb2.VersionResponse(version=fake.version)],
    SERVER: lambda _f, _r, _c: [introspection_pb2.ServerResponse(uuid="fake")],
    PLUGINS: _plugins,
    NAMESPACES: lambda _f, _r, _c: [
        namespaces_pb2.ListNamespacesResponse(namespaces=[namespaces_pb2.Namespace(name=NAMESPACE)])
    ],
    IMAGES: lambda fake, _r, _c: [
        images_pb2.ListImagesResponse(images=[_image(fake, name) for name in list(fake.images)])
    ],
    IMAGE: _get_image,
    CONTENT: lambda fake, _r, _c: fake.list_content(),
    INFO: _info,
    SUBSCRIBE: lambda fake, _r, c: fake.subscribe(c),
}
