"""A node that has no descriptor left for a connection blames nobody else for it."""

from __future__ import annotations

import errno
import os

import pytest
import trio

from peili.follow.failed_sources import SourceFailure
from peili.follow.message import Peer, Source
from peili.http.client import Client
from peili.http.message import Headers
from peili.members.peer_requests import PeerRequests
from peili.mirror.attempt import Asker, Wanted
from peili.mirror.body_budget import BodyBudget
from peili.mirror.failure import AttemptFailed, FailureKind
from peili.mirror.growing_source import SourceAsker, SourceRefused
from peili.oci.digest import Digest
from peili.oci.distribution import BlobTarget
from peili.routing.protocol import Provider

TARGET = BlobTarget("docker.io", "a", Digest.of(b"content"))


@pytest.fixture(autouse=True)
def _no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*arguments: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(trio.socket, "socket", none_left)


async def test_a_provider_that_could_not_be_asked_is_not_at_fault() -> None:
    asker = Asker(Client(), PeerRequests(Headers(), None), BodyBudget(), silence=0.2)
    with pytest.raises(AttemptFailed, match="Too many open files") as caught:
        await asker.ask(Provider("peer", "127.0.0.1", 5000), Wanted(TARGET))
    assert (caught.value.kind, caught.value.blames_node) == (FailureKind.NO_MEANS, False)


async def test_a_source_that_could_not_be_asked_is_left_alone_for_a_moment_only() -> None:
    asker = SourceAsker(Client(), lambda method, target: Headers(), silence=0.2)
    source = Source(Peer(b"peer", "127.0.0.1", 5000), 0, 0, committed=True)
    with pytest.raises(SourceRefused, match="Too many open files") as caught:
        await asker.ask(source, TARGET, 0)
    assert (caught.value.kind, caught.value.failure) == (FailureKind.NO_MEANS, SourceFailure.BUSY)
