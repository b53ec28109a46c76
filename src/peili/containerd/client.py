"""containerd's services that Peili uses, as typed calls (containerd's api/services, versions 1.6 to 2.x)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message

from peili.containerd.api import (
    content_pb2,
    event_types_pb2,
    events_pb2,
    images_pb2,
    introspection_pb2,
    namespaces_pb2,
    version_pb2,
)
from peili.containerd.channel import Channel, Method
from peili.containerd.errors import ContainerdError, Failure

LIST_TIMEOUT = 60.0  # seconds for a whole listing; a slow disk with 100,000 blobs takes a few

_VERSION = Method("/containerd.services.version.v1.Version/Version", Empty, version_pb2.VersionResponse)
_PLUGINS = Method(
    "/containerd.services.introspection.v1.Introspection/Plugins",
    introspection_pb2.PluginsRequest,
    introspection_pb2.PluginsResponse,
)
_SERVER = Method(
    "/containerd.services.introspection.v1.Introspection/Server", Empty, introspection_pb2.ServerResponse
)
_NAMESPACES = Method(
    "/containerd.services.namespaces.v1.Namespaces/List",
    namespaces_pb2.ListNamespacesRequest,
    namespaces_pb2.ListNamespacesResponse,
)
_IMAGES = Method(
    "/containerd.services.images.v1.Images/List", images_pb2.ListImagesRequest, images_pb2.ListImagesResponse
)
_IMAGE = Method(
    "/containerd.services.images.v1.Images/Get", images_pb2.GetImageRequest, images_pb2.GetImageResponse
)
_CONTENT = Method(
    "/containerd.services.content.v1.Content/List",
    content_pb2.ListContentRequest,
    content_pb2.ListContentResponse,
)
_INFO = Method("/containerd.services.content.v1.Content/Info", content_pb2.InfoRequest, content_pb2.InfoResponse)
_SUBSCRIBE = Method(
    "/containerd.services.events.v1.Events/Subscribe", events_pb2.SubscribeRequest, events_pb2.Envelope
)


@dataclass(frozen=True, slots=True)
class Version:
    """What containerd calls itself, for example `1.6.20~ds1`."""

    version: str
    revision: str


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin of containerd. `error` says why it is not loaded; empty when it is. `exports`: its public facts."""

    type: str
    id: str
    exports: dict[str, str]
    error: str


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image's name and what it leads to. `size` is the target's own, in bytes. Nothing is checked."""

    name: str
    media_type: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class ContentRecord:
    """A blob that this namespace's metadata lists. `size` in bytes. Nothing is checked."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Event:
    """What happened in which namespace. `subject`: an image's name or a digest; empty where the event has none."""

    namespace: str
    topic: str
    subject: str


class Client:
    """Calls in one containerd namespace. All raise ContainerdError."""

    def __init__(self, socket: Path, namespace: str) -> None:
        self.namespace = namespace
        self.channel = Channel(socket, namespace)

    def close(self) -> None:
        """End the connection and every call on it."""
        self.channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def version(self) -> Version:
        """containerd's version."""
        answer = await self.channel.unary(_VERSION, Empty())
        return Version(answer.version, answer.revision)

    async def server_id(self) -> str:
        """The random identity that containerd keeps in its root directory."""
        return (await self.channel.unary(_SERVER, Empty())).uuid

    async def plugins(self, filters: Iterable[str] = ()) -> list[Plugin]:
        """The plugins that match any of the filters (`type==…,id==…`), or all."""
        request = introspection_pb2.PluginsRequest(filters=filters)
        answer = await self.channel.unary(_PLUGINS, request)
        return [Plugin(p.type, p.id, dict(p.exports), _plugin_error(p)) for p in answer.plugins]

    async def namespaces(self) -> list[str]:
        """All namespaces that exist."""
        answer = await self.channel.unary(_NAMESPACES, namespaces_pb2.ListNamespacesRequest())
        return [entry.name for entry in answer.namespaces]

    async def images(self) -> list[ImageRecord]:
        """All image records of the namespace."""
        request = images_pb2.ListImagesRequest()
        answer = await self.channel.unary(_IMAGES, request, timeout=LIST_TIMEOUT)
        return [_image(image) for image in answer.images]

    async def image(self, name: str) -> ImageRecord | None:
        """One image record, or None."""
        try:
            answer = await self.channel.unary(_IMAGE, images_pb2.GetImageRequest(name=name))
        except ContainerdError as error:
            if error.failure is Failure.NOT_FOUND:
                return None
            raise
        return _image(answer.image)

    async def content(self, digest: str) -> ContentRecord | None:
        """One blob that the namespace's metadata lists, or None."""
        try:
            answer = await self.channel.unary(_INFO, content_pb2.InfoRequest(digest=digest))
        except ContainerdError as error:
            if error.failure is Failure.NOT_FOUND:
                return None
            raise
        return ContentRecord(answer.info.digest, answer.info.size)

    async def list_content(self, maximum: int) -> list[ContentRecord]:
        """Every blob that the namespace's metadata lists, at most `maximum` of them."""
        found: list[ContentRecord] = []
        request = content_pb2.ListContentRequest()
        async with self.channel.stream(_CONTENT, request, timeout=LIST_TIMEOUT) as messages:
            async for message in messages:
                found += [ContentRecord(info.digest, info.size) for info in message.info]
                if len(found) >= maximum:
                    break
        return found[:maximum]

    @asynccontextmanager
    async def events(self, filters: Iterable[str]) -> AsyncIterator[AsyncIterator[Event]]:
        """A subscription to events that match any of the filters (`topic~="/images/"`), for the length of a `with`.

        containerd tells nothing of what happened before; it says nothing when the subscription has begun either,
        but it has been asked for it when the `with` begins.
        """
        request = events_pb2.SubscribeRequest(filters=filters)
        async with self.channel.stream(_SUBSCRIBE, request, timeout=None) as envelopes:
            yield _Events(envelopes)


class _Events:
    """Envelopes, read."""

    def __init__(self, envelopes: AsyncIterator[events_pb2.Envelope]) -> None:
        self._envelopes = envelopes

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> Event:
        envelope = await anext(self._envelopes)
        return Event(envelope.namespace, envelope.topic, _subject(envelope))


_SUBJECTS: dict[str, type[Message]] = {
    "/images/create": event_types_pb2.ImageCreate,
    "/images/update": event_types_pb2.ImageUpdate,
    "/images/delete": event_types_pb2.ImageDelete,
    "/content/create": event_types_pb2.ContentCreate,
    "/content/delete": event_types_pb2.ContentDelete,
}


def _subject(envelope: events_pb2.Envelope) -> str:
    """The name or digest in an event, by its topic; what cannot be read is no subject, never an error."""
    kind = _SUBJECTS.get(envelope.topic)
    if kind is None:
        return ""
    try:
        event = kind.FromString(envelope.event.value)
    except DecodeError:
        return ""
    return str(getattr(event, "name", "") or getattr(event, "digest", ""))


def _image(image: images_pb2.Image) -> ImageRecord:
    target = image.target
    return ImageRecord(image.name, target.media_type, target.digest, target.size)


def _plugin_error(plugin: introspection_pb2.Plugin) -> str:
    failure = plugin.init_err
    return failure.message or (f"code {failure.code}" if failure.code else "")
