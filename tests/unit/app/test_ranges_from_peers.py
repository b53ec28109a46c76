"""A range beyond the end of what only peers have: the client's fault, told with 416, and no peer's."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from peili.demo.images import build_image
from peili.http.message import Headers
from peili.http.server import Exchange
from peili.mirror.attempt import Whole
from peili.mirror.body_budget import BodyBudget
from peili.mirror.failure import AttemptFailed, FailureKind
from peili.mirror.lookup import Found
from peili.mirror.mirror import BEYOND_END, Mirror, Trace
from peili.oci.descriptor import Descriptor
from peili.oci.digest import Digest
from peili.oci.distribution import BlobTarget
from peili.oci.key import Key
from peili.oci.ranges import RangeRequest, Span
from peili.routing.memory import MemoryNetwork
from peili.routing.protocol import Provider
from peili.store.growing import LAYOUT_NAMESPACE
from tests.fakes.ingests import FileIncoming
from tests.fakes.nodes import fake_provider, running_node

IMAGE = build_image("app", layer_sizes=(3_000_000, 5_000))
LARGE, SMALL = (layer.digest for layer in IMAGE.layers)


def blob(digest: Digest) -> str:
    return f"/v2/library/app/blobs/{digest}?ns=docker.io"


@pytest.mark.parametrize("received", [False, True], ids=["by anybody", "by who receives it"])
@pytest.mark.parametrize("digest", [LARGE, SMALL], ids=["large", "small"])
async def test_a_range_beyond_the_end_is_told_and_no_peer_is_blamed(
    tmp_path: Path, digest: Digest, received: bool
) -> None:
    network, content = MemoryNetwork(), IMAGE.blobs[digest]
    async with running_node(network, tmp_path / "1") as one, running_node(network, tmp_path / "2") as two:
        one.layout.add("docker.io/library/app:1", IMAGE)
        await one.wait_offered(Key(str(digest)))
        descriptor = next(layer for layer in IMAGE.layers if layer.digest == digest)
        incoming = FileIncoming(tmp_path / "2", LAYOUT_NAMESPACE, descriptor, content) if received else None
        for asked in (f"bytes={len(content)}-", f"bytes={len(content) + 5}-{len(content) + 9}", "bytes=-0"):
            answer = await two.get(blob(digest), Range=asked)
            assert (answer.status, answer.headers.get("Content-Range")) == (416, f"bytes */{len(content)}"), asked
            assert json.loads(answer.body)["errors"][0]["code"] == "RANGE_INVALID"
        record = (await two.records(3))[-1]
        assert (record.outcome, record.status) == ("refused", 416)
        text = two.node.metrics.render().decode()
        blamed = [kind for kind in FailureKind if AttemptFailed(kind, "").blames_node]
        assert all(f'peili_provider_failures_total{{kind="{kind}"}} 0.0' in text for kind in blamed)
        assert 'peili_provider_failures_total{kind="range"} 0.0' not in text
        assert (await two.get(blob(digest), Range="bytes=5-")).body == content[5:]
        if incoming is not None:
            incoming.close()


async def test_where_no_peer_states_the_size_it_is_not_found(tmp_path: Path) -> None:
    async def beyond(exchange: Exchange) -> None:
        await exchange.respond(416, Headers(), b"")

    network = MemoryNetwork()
    async with running_node(network, tmp_path) as node, fake_provider(network, [Key(str(LARGE))], beyond):
        assert (await node.get(blob(LARGE), Range="bytes=9999999-")).status == 404
        assert 'peili_provider_failures_total{kind="range"} 1.0' in node.node.metrics.render().decode()


async def test_a_small_blob_from_the_tree_is_held_to_the_range_as_well() -> None:
    body = IMAGE.blobs[SMALL]
    lease = await BodyBudget().take(len(body))
    descriptor = Descriptor(SMALL, "a/b", len(body))
    whole = Whole(Provider("id", "host", 1), descriptor, Span(0, len(body)), body, lease)

    async def answer_small(*_: object) -> Found:
        return Found(whole, 1, 0.0)

    follower = SimpleNamespace(answer_small=answer_small)
    trace, mirror = Trace(), object.__new__(Mirror)
    target = BlobTarget("docker.io", "library/app", SMALL)
    exchange = SimpleNamespace(started=False)
    parts = cast(Any, (follower, None, exchange, SMALL, target, RangeRequest(len(body)), trace))
    assert await mirror._answer_from_tree(*parts, small=True)
    assert (trace.reason, trace.size) == (BEYOND_END, len(body))
