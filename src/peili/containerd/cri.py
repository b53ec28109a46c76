"""The kubelet's interface to containerd (CRI runtime.v1): the settings check asks it, the tests pull with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peili.containerd.api import cri_pb2
from peili.containerd.channel import Channel, Method

PULL_TIMEOUT = 600.0  # seconds for a whole image

_VERSION = Method("/runtime.v1.RuntimeService/Version", cri_pb2.VersionRequest, cri_pb2.VersionResponse)
_STATUS = Method("/runtime.v1.RuntimeService/Status", cri_pb2.StatusRequest, cri_pb2.StatusResponse)
_LIST = Method("/runtime.v1.ImageService/ListImages", cri_pb2.ListImagesRequest, cri_pb2.ListImagesResponse)
_IMAGE = Method("/runtime.v1.ImageService/ImageStatus", cri_pb2.ImageStatusRequest, cri_pb2.ImageStatusResponse)
_PULL = Method("/runtime.v1.ImageService/PullImage", cri_pb2.PullImageRequest, cri_pb2.PullImageResponse)
_REMOVE = Method("/runtime.v1.ImageService/RemoveImage", cri_pb2.RemoveImageRequest, cri_pb2.RemoveImageResponse)


@dataclass(frozen=True, slots=True)
class RuntimeVersion:
    """For example `containerd`, `1.6.20~ds1`."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """`conditions`: the type of each, and whether it holds. `info`: texts of JSON, by topic; `config` is one."""

    conditions: dict[str, bool]
    info: dict[str, str]

    def config(self) -> dict[str, Any] | None:
        """The CRI plugin's settings, where this version of containerd shows them (1.6, 1.7), else None."""
        try:
            value = json.loads(self.info.get("config", ""))
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None


@dataclass(frozen=True, slots=True)
class CriImage:
    """An image as the kubelet sees it. `size` in bytes."""

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a pod's pull secret says. `server` empty: for whichever registry is asked."""

    username: str
    password: str
    server: str = ""


class Cri:
    """Calls of the CRI. All raise ContainerdError."""

    def __init__(self, socket: Path) -> None:
        self.channel = Channel(socket)

    def close(self) -> None:
        """End the connection and every call on it."""
        self.channel.close()

    def __enter__(self) -> Cri:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def version(self) -> RuntimeVersion:
        """The runtime's name and version."""
        answer = await self.channel.unary(_VERSION, cri_pb2.VersionRequest(version="v1"))
        return RuntimeVersion(answer.runtime_name, answer.runtime_version)

    async def status(self) -> RuntimeStatus:
        """The runtime's state and, as far as it tells, its settings."""
        answer = await self.channel.unary(_STATUS, cri_pb2.StatusRequest(verbose=True))
        conditions = {condition.type: condition.status for condition in answer.status.conditions}
        return RuntimeStatus(conditions, dict(answer.info))

    async def images(self) -> list[CriImage]:
        """All images that the kubelet sees."""
        answer = await self.channel.unary(_LIST, cri_pb2.ListImagesRequest())
        return [_image(image) for image in answer.images]

    async def image(self, name: str) -> CriImage | None:
        """One image by reference or id, or None."""
        request = cri_pb2.ImageStatusRequest(image=cri_pb2.ImageSpec(image=name))
        answer = await self.channel.unary(_IMAGE, request)
        return _image(answer.image) if answer.HasField("image") else None

    async def pull(
        self, name: str, credentials: Credentials | None = None, *, timeout: float = PULL_TIMEOUT
    ) -> str:
        """Pull an image as the kubelet does; the answer is the image's id. `timeout` in seconds."""
        request = cri_pb2.PullImageRequest(image=cri_pb2.ImageSpec(image=name))
        if credentials is not None:
            request.auth.username = credentials.username
            request.auth.password = credentials.password
            request.auth.server_address = credentials.server
        return (await self.channel.unary(_PULL, request, timeout=timeout)).image_ref

    async def remove(self, name: str) -> None:
        """Remove an image and all its names; an image that is not there is no error."""
        await self.channel.unary(_REMOVE, cri_pb2.RemoveImageRequest(image=cri_pb2.ImageSpec(image=name)))


def _image(image: cri_pb2.Image) -> CriImage:
    return CriImage(image.id, tuple(image.repo_tags), tuple(image.repo_digests), image.size)
