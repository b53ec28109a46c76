"""One node's registry endpoint over real HTTP, with a layout store."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from peili.demo.images import Image, build_index
from peili.oci.digest import Digest
from peili.oci.key import Key
from peili.oci.media_types import OCI_INDEX
from peili.registry.credentials import Credentials
from peili.routing.memory import MemoryNetwork
from peili.settings import RunSettings
from tests.fakes.nodes import PORT, TestNode, running_node

NAME = "docker.io/library/app:1"
INDEX = build_index("app", layer_sizes=(300_000, 10))
TAG = "/v2/library/app/manifests/1?ns=docker.io"


def layer_of(image: Image) -> tuple[Digest, bytes]:
    digest = image.parts[0].layers[0].digest
    return digest, image.blobs[digest]


@asynccontextmanager
async def node_with_image(directory: Path, change: object = None, **fields: object) -> AsyncIterator[TestNode]:
    def changed(settings: RunSettings) -> RunSettings:
        return replace(settings, **fields)  # type: ignore[arg-type]

    async with running_node(MemoryNetwork(), directory, change=changed) as node:
        node.layout.add(NAME, INDEX)
        if fields.get("resolve_tags", True):
            await node.wait_offered(Key(NAME))
        else:
            await node.wait_offered(Key(str(INDEX.descriptor.digest)))
        yield node


async def test_the_base_answers_as_a_registry(tmp_path: Path) -> None:
    async with node_with_image(tmp_path) as node:
        answer = await node.get("/v2/")
        assert (answer.status, answer.body) == (200, b"{}")
        assert answer.headers.get("Docker-Distribution-API-Version") == "registry/2.0"


async def test_a_tag_and_its_digest_give_the_index_with_what_containerd_needs(tmp_path: Path) -> None:
    async with node_with_image(tmp_path) as node:
        for target in (TAG, f"/v2/library/app/manifests/{INDEX.descriptor.digest}"):
            head, get = await node.get(target, "HEAD"), await node.get(target)
            for answer in (head, get):
                assert answer.status == 200
                assert answer.headers.get("Docker-Content-Digest") == str(INDEX.descriptor.digest)
                assert answer.headers.get("Content-Type") == OCI_INDEX
                assert answer.headers.get("Content-Length") == str(INDEX.descriptor.size)
            assert head.body == b""
            assert INDEX.descriptor.digest.matches(get.body)


async def test_a_blob_comes_whole_or_in_the_part_asked_for(tmp_path: Path) -> None:
    digest, content = layer_of(INDEX)
    target, size = f"/v2/library/app/blobs/{digest}?ns=docker.io", len(content)
    async with node_with_image(tmp_path) as node:
        for asked in ("", "bytes=0-", "bytes=1-2,5-6", "lines=1-2"):
            whole = await node.get(target, **({"Range": asked} if asked else {}))
            assert (whole.status, whole.body == content) == (200, True)
            assert whole.headers.get("Accept-Ranges") == "bytes"
        part = await node.get(target, Range="bytes=100-")
        assert (part.status, part.body == content[100:]) == (206, True)
        assert part.headers.get("Content-Range") == f"bytes 100-{size - 1}/{size}"
        assert (await node.get(target, Range="bytes=5-9")).body == content[5:10]
        assert (await node.get(target, Range="bytes=-7")).body == content[-7:]
        beyond = await node.get(target, Range=f"bytes={size}-")
        assert (beyond.status, beyond.headers.get("Content-Range")) == (416, f"bytes */{size}")
        assert (await node.get(target, Range="bytes=5-9", If_Range='"x"')).body == content


async def test_what_is_not_there_is_a_404_of_the_specification(tmp_path: Path) -> None:
    missing = Digest.of(b"missing")
    async with node_with_image(tmp_path) as node:
        for target, code in (
            ("/v2/library/app/manifests/2?ns=docker.io", "MANIFEST_UNKNOWN"),
            ("/v2/library/app/manifests/1?ns=ghcr.io", "MANIFEST_UNKNOWN"),
            (f"/v2/library/app/manifests/{missing}", "MANIFEST_UNKNOWN"),
            (f"/v2/library/app/blobs/{missing}", "BLOB_UNKNOWN"),
            ("/v2/library/app/manifests/1", "NAME_UNKNOWN"),
        ):
            answer = await node.get(target)
            assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (404, code), target
        assert (await node.get("/v2/library/app/manifests/2?ns=docker.io", "HEAD")).body == b""


async def test_a_layer_is_no_manifest(tmp_path: Path) -> None:
    async with node_with_image(tmp_path) as node:
        assert (await node.get(f"/v2/library/app/manifests/{layer_of(INDEX)[0]}")).status == 404


async def test_bad_requests_get_the_fault_named_and_the_next_one_an_answer(tmp_path: Path) -> None:
    async with node_with_image(tmp_path) as node:
        for target, method, status in (
            ("/v2/library/app/blobs/md5:00", "GET", 400),
            ("/v2/Library/manifests/1", "GET", 400),
            ("/v2/library/app/manifests/1?ns=a..b", "GET", 400),
            ("/nothing", "GET", 404),
            (TAG, "PUT", 405),
            (TAG, "DELETE", 405),
            ("/v2/library/app/blobs/uploads/", "POST", 405),
        ):
            answer = await node.get(target, method)
            assert answer.status == status, target
            assert json.loads(answer.body)["errors"]
        assert (await node.get(TAG)).status == 200


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after 100 (Continue)"])
async def test_a_push_of_a_large_layer_gets_405_and_is_recorded(tmp_path: Path, waits: bool) -> None:
    expect = "Expect: 100-continue\r\n" if waits else ""
    head = f"PUT /v2/library/app/blobs/uploads/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n{expect}\r\n"
    async with node_with_image(tmp_path) as node:
        stream = await trio.open_tcp_stream(node.host, PORT)
        async with stream:
            await stream.send_all(head.encode() + (b"" if waits else bytes(500_000)))
            answer = b"".join([part async for part in stream])
        status, _, body = answer.partition(b"\r\n\r\n")
        assert status.startswith(b"HTTP/1.1 405 ")
        assert json.loads(body)["errors"][0]["code"] == "UNSUPPORTED"
        labels = 'handler="invalid",kind="invalid",outcome="refused",registry="",status="405"'
        assert f"peili_requests_by_registry_total{{{labels}}} 1.0" in node.node.metrics.render().decode()


async def test_without_ns_a_tag_is_looked_up_in_the_only_mirrored_registry(tmp_path: Path) -> None:
    async with node_with_image(tmp_path, mirrored_registries=frozenset({"docker.io"})) as node:
        assert (await node.get("/v2/library/app/manifests/1")).status == 200
        assert (await node.get("/v2/library/app/manifests/1?ns=ghcr.io")).status == 404


async def test_tags_can_be_left_to_upstream(tmp_path: Path) -> None:
    async with node_with_image(tmp_path, resolve_tags=False) as node:
        assert (await node.get(TAG)).status == 404
        assert (await node.get(f"/v2/library/app/manifests/{INDEX.descriptor.digest}")).status == 200
        assert not node.router.provides(Key(NAME))


async def test_wrong_credentials_get_403_and_never_a_challenge(tmp_path: Path) -> None:
    credentials = Credentials("user", "secret")
    wrong = Credentials("user", "wrong").header
    async with node_with_image(tmp_path, credentials=credentials) as node:
        for fields in ({}, {"Authorization": wrong}, {"Authorization": "Bearer x"}):
            for target in ("/v2/", TAG):
                answer = await node.get(target, **fields)
                assert answer.status == 403
                assert json.loads(answer.body)["errors"][0]["code"] == "DENIED"
                assert "WWW-Authenticate" not in answer.headers
        assert (await node.get(TAG, Authorization=credentials.header)).status == 200


async def test_a_file_that_cannot_be_read_to_its_end_is_no_hit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    digest, _ = layer_of(INDEX)
    async with node_with_image(tmp_path) as node:
        monkeypatch.setattr("peili.http.sink.send_file", fail)
        assert not (await node.get(f"/v2/library/app/blobs/{digest}?ns=docker.io")).complete
        record = (await node.records(1))[-1]
        assert (record.outcome, record.status, record.size) == ("truncated", 200, 0)
        assert "Input/output error" in record.reason
        assert node.node.recent.totals.hits == 0


async def test_a_fault_of_ours_before_the_answer_is_recorded_as_the_500_that_it_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise KeyError("broken")

    async with node_with_image(tmp_path) as node:
        monkeypatch.setattr(node.store, "open", fail)
        assert (await node.get(TAG)).status == 500
        record = (await node.records(1))[-1]
        assert (record.outcome, record.status, record.reason) == ("error", 500, "KeyError: 'broken'")


async def test_what_is_provided_is_counted_by_kind(tmp_path: Path) -> None:
    """Tags that are left to upstream are held and not provided."""

    def counts(name: str) -> dict[str, float]:
        found = re.findall(rf'^{name}{{kind="(\w+)"}} (.*)$', node.node.metrics.render().decode(), re.M)
        return {kind: float(value) for kind, value in found if float(value)}

    digests = {"index": 1.0, "manifest": 2.0, "config": 2.0, "layer": 4.0}
    async with node_with_image(tmp_path, resolve_latest=False) as node:
        node.layout.add("docker.io/library/app:latest", INDEX)
        node.layout.add("docker.io/library/app:2", INDEX)
        await node.wait_offered(Key("docker.io/library/app:2"))
        await trio.testing.wait_all_tasks_blocked()
        assert counts("peili_store_keys") == {**digests, "tag": 3.0}
        assert counts("peili_provided_keys") == {**digests, "tag": 2.0}
        assert sum(counts("peili_provided_keys").values()) == node.router.statistics().provided_keys
        node.layout.remove("docker.io/library/app:2")
        with trio.fail_after(10):
            while node.router.provides(Key("docker.io/library/app:2")):
                await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked()
        assert counts("peili_provided_keys") == {**digests, "tag": 1.0}


async def test_what_happened_is_counted(tmp_path: Path) -> None:
    digest, content = layer_of(INDEX)
    async with node_with_image(tmp_path) as node:
        await node.get(f"/v2/library/app/blobs/{digest}?ns=docker.io")
        await node.get("/v2/library/app/manifests/2?ns=docker.io")
        record = (await node.records(2))[0]
        text = node.node.metrics.render().decode()
        labels = 'handler="mirror",kind="blob",outcome="hit",registry="docker.io",status="200"'
        assert f"peili_requests_by_registry_total{{{labels}}} 1.0" in text
        labels = 'handler="mirror",kind="manifest",outcome="miss",registry="docker.io",status="404"'
        assert f"peili_requests_by_registry_total{{{labels}}} 1.0" in text
        sent = 'peili_sent_bytes_by_registry_total{handler="mirror",registry="docker.io",source="local"}'
        assert f"{sent} {float(len(content))}" in text
        assert f'peili_sent_bytes_total{{handler="mirror",source="local"}} {float(len(content))}' in text
        for outcome in ("hit", "miss"):
            assert f'peili_requests_total{{handler="mirror",outcome="{outcome}"}} 1.0' in text
        assert 'peili_store_keys{kind="tag"} 1.0' in text
        assert "peili_ready 1.0" in text
        assert (record.size, record.status, record.source) == (len(content), 200, "local")
