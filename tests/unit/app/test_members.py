"""Whole nodes with a cluster secret, real HTTP between them; where they find each other is told, not looked up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from peili.demo.images import build_image
from peili.http.message import Headers
from peili.http.server import Exchange
from peili.members.membership import Membership
from peili.members.request_mac import MEMBER_HEADER, check
from peili.members.secret_file import CHECK_INTERVAL, SecretFile, read_secrets
from peili.members.secrets import MemberKeys, parse_secrets
from peili.oci.digest import Digest
from peili.oci.key import Key
from peili.registry.clients import ClientNetworks
from peili.registry.credentials import Credentials
from peili.registry.record import Handler
from peili.routing.memory import MemoryNetwork
from peili.settings import RunSettings
from tests.fakes.nodes import TestNode, fake_provider, fetch, running_node

NAME = "docker.io/library/app:1"
IMAGE = build_image("members", layer_sizes=(3_000_000, 5_000))
TAG = "/v2/library/app/manifests/1?ns=docker.io"
LARGE, SMALL = IMAGE.layers[0].digest, IMAGE.layers[1].digest
SECRET, OTHER = b"the secret of this cluster", b"the secret of another one"
MARKS = ("X_Peili_Mirrored", "X_Spegel_Mirrored")


def blob(digest: Digest) -> str:
    return f"/v2/library/app/blobs/{digest}?ns=docker.io"


def with_secret(*secrets: bytes, credentials: Credentials | None = None) -> Callable[[RunSettings], RunSettings]:
    file = SecretFile(Path("unused"), parse_secrets(b"\n".join(secrets)))
    return lambda settings: replace(settings, cluster_secret=file, credentials=credentials)


async def add_image(node: TestNode) -> None:
    node.layout.add(NAME, IMAGE)
    await node.wait_offered(Key(NAME))
    await node.wait_offered(Key(str(LARGE)))


@pytest.mark.parametrize(
    ("first", "second"),
    [((SECRET,), (SECRET,)), ((OTHER, SECRET), (SECRET, OTHER)), ((SECRET,), (SECRET, OTHER))],
    ids=["one secret", "each uses the other's second", "one knows the new one"],
)
async def test_members_pull_from_each_other(
    tmp_path: Path, first: tuple[bytes, ...], second: tuple[bytes, ...]
) -> None:
    network = MemoryNetwork()
    async with (
        running_node(network, tmp_path / "1", change=with_secret(*first)) as one,
        running_node(network, tmp_path / "2", change=with_secret(*second)) as two,
    ):
        await add_image(one)
        assert (await two.get(TAG, "HEAD")).headers.get("Docker-Content-Digest") == str(IMAGE.descriptor.digest)
        assert (await two.get(TAG)).body == IMAGE.blobs[IMAGE.descriptor.digest]
        for digest in (LARGE, SMALL):
            head, whole = await two.get(blob(digest), "HEAD"), await two.get(blob(digest))
            part = await two.get(blob(digest), Range="bytes=7-")
            assert (head.status, whole.status, part.status) == (200, 200, 206)
            assert whole.body == IMAGE.blobs[digest]
            assert part.body == IMAGE.blobs[digest][7:]
        assert {record.handler for record in one.node.recent.requests()} == {Handler.SERVE}


@pytest.mark.parametrize("change", [None, with_secret(OTHER)], ids=["no secret", "another secret"])
async def test_a_stranger_gets_nothing_from_a_member(
    tmp_path: Path, change: Callable[[RunSettings], RunSettings] | None
) -> None:
    network = MemoryNetwork()
    async with (
        running_node(network, tmp_path / "1", change=with_secret(SECRET)) as one,
        running_node(network, tmp_path / "2", change=change or (lambda settings: settings)) as stranger,
    ):
        await add_image(one)
        assert (await stranger.get(TAG)).status == 404
        assert (await stranger.get(blob(LARGE))).status == 404
        assert one.node.recent.requests() == []
        assert 'handler="stranger"' in one.node.metrics.render().decode()


async def test_the_mark_without_a_proof_is_refused_as_the_specification_says(tmp_path: Path) -> None:
    async with running_node(MemoryNetwork(), tmp_path, change=with_secret(SECRET)) as node:
        await add_image(node)
        for mark in MARKS:
            for target in (TAG, blob(LARGE), "/v2/", "/nothing"):
                answer = await node.get(target, **{mark: "true"})
                assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (403, "DENIED")
                assert "WWW-Authenticate" not in answer.headers
            assert (await node.get(TAG, "HEAD", **{mark: "true"})).status == 403
        assert (await node.get(TAG)).status == 200
        assert 'handler="stranger"' in node.node.metrics.render().decode()


async def test_a_stamp_is_good_for_its_request_and_its_minute(tmp_path: Path) -> None:
    file = SecretFile(tmp_path, parse_secrets(SECRET))
    async with running_node(MemoryNetwork(), tmp_path / "1", change=with_secret(SECRET)) as node:
        await add_image(node)
        for wrong, status in ((0.0, 200), (-50.0, 200), (50.0, 200), (-120.0, 403), (120.0, 403)):
            member = Membership(file, now=partial(shifted, wrong))
            fields = {"X_Peili_Mirrored": "true", "X_Peili_Member": member.stamp("GET", TAG)}
            answer = await fetch(node.host, TAG, **fields)
            assert answer.status == status, wrong
            if status == 403:
                assert b"clocks" in answer.body
            assert (await fetch(node.host, blob(LARGE), **fields)).status == 403


def shifted(seconds: float) -> float:
    return time.time() + seconds


async def test_clients_elsewhere_are_refused_and_trigger_no_forwarding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = MemoryNetwork()
    monkeypatch.setattr(ClientNetworks, "allows", lambda self, host: False)
    async with (
        running_node(network, tmp_path / "1", change=with_secret(SECRET)) as one,
        running_node(network, tmp_path / "2", change=with_secret(SECRET)) as two,
    ):
        await add_image(one)
        for node in (one, two):
            for target in (TAG, blob(LARGE)):
                answer = await node.get(target)
                assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (403, "DENIED")
        assert one.node.recent.requests() == two.node.recent.requests() == []


async def test_every_request_to_a_peer_is_signed_and_carries_no_password(tmp_path: Path) -> None:
    """Of the answers the first ends early: the part that follows is signed as well."""
    network, heard = MemoryNetwork(), list[Exchange]()
    keys: tuple[MemberKeys, ...] = parse_secrets(SECRET)
    content = IMAGE.blobs[LARGE]

    async def answer(exchange: Exchange) -> None:
        heard.append(exchange)
        asked = exchange.request.headers.get("Range")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        fields = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": str(LARGE)}
        if asked:
            fields["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        sink = await exchange.start(206 if asked else 200, Headers.of(fields), len(content) - start)
        if exchange.request.method == "GET":
            await sink.write(content[start:] if start else content[:2_000_000])

    credentials = Credentials("user", "password")
    async with (
        running_node(network, tmp_path, change=with_secret(SECRET, credentials=credentials)) as node,
        fake_provider(network, [Key(str(LARGE))], answer),
        fake_provider(network, [Key(str(LARGE))], answer),
    ):
        assert (await node.get(blob(LARGE), "HEAD", Authorization=credentials.header)).status == 200
        whole = await node.get(blob(LARGE), Authorization=credentials.header)
        assert (whole.complete, whole.body == content) == (True, True)
        assert (await node.get(blob(LARGE))).status == 403
    asked = {(one.request.method, one.request.headers.get("Range") is not None) for one in heard}
    assert {("HEAD", False), ("GET", False), ("GET", True)} <= asked
    for exchange in heard:
        request = exchange.request
        stamp = request.headers.get(MEMBER_HEADER)
        check([one.request for one in keys], stamp, request.method, request.target, shifted(0))
        assert "Authorization" not in request.headers


@pytest.mark.parametrize("proof", ["none", "its own", "another cluster's", "of another answer"])
async def test_a_tag_is_believed_of_members_only(tmp_path: Path, proof: str) -> None:
    """Who took the address of a node that is gone answers for a tag: with good bytes, but it is no member."""
    network, manifest = MemoryNetwork(), IMAGE.blobs[IMAGE.descriptor.digest]
    file = SecretFile(tmp_path, parse_secrets(OTHER if proof == "another cluster's" else SECRET))
    member, media_type = Membership(file), IMAGE.descriptor.media_type

    async def answer(exchange: Exchange) -> None:
        stamp = exchange.request.headers.get(MEMBER_HEADER) or ""
        about = Digest.of(b"x") if proof == "of another answer" else IMAGE.descriptor.digest
        fields = {"Content-Type": media_type, "Docker-Content-Digest": str(IMAGE.descriptor.digest)}
        if proof != "none":
            fields[MEMBER_HEADER] = member.answer_stamp(stamp, str(about), media_type)
        await exchange.respond(200, Headers.of(fields), manifest)

    async with (
        running_node(network, tmp_path / "1", change=with_secret(SECRET)) as node,
        fake_provider(network, [Key(NAME), Key(str(IMAGE.descriptor.digest))], answer),
    ):
        believed = proof == "its own"
        assert (await node.get(TAG)).status == (200 if believed else 404)
        by_digest = await node.get(f"/v2/library/app/manifests/{IMAGE.descriptor.digest}?ns=docker.io")
        assert by_digest.body == manifest
        text = node.node.metrics.render().decode()
        assert f'peili_provider_failures_total{{kind="unproven"}} {0 if believed else 1}.0' in text


async def test_the_file_is_followed_while_the_node_runs(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """As in a pod: the file is behind a symbolic link to a directory, and the link is moved."""
    for name, content in (("one", SECRET), ("two", OTHER + b"\n" + SECRET), ("three", b"short")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "secret").write_bytes(content)
    link = tmp_path / "..data"
    path = link / "secret"
    point(link, tmp_path / "one")
    membership, changes = Membership(read_secrets(path)), list[int]()
    logged: list[tuple[str, dict[str, object]]] = []
    membership.on_change(lambda: changes.append(1))
    before = membership.extensions(b"public key")
    async with trio.open_nursery() as nursery:
        await nursery.start(membership.run, lambda event, **fields: logged.append((event, fields)))
        await trio.sleep(3 * CHECK_INTERVAL)
        assert (changes, logged) == ([], [])
        point(link, tmp_path / "two")
        await trio.sleep(2 * CHECK_INTERVAL)
        assert changes == [1]
        assert membership.extensions(b"public key") != before
        assert membership.accepts(b"public key", before)
        for broken in ("three", "missing"):
            point(link, tmp_path / broken)
            await trio.sleep(3 * CHECK_INTERVAL)
        assert membership.accepts(b"public key", before)
        point(link, tmp_path / "one")
        await trio.sleep(2 * CHECK_INTERVAL)
        assert membership.extensions(b"public key") == before
        nursery.cancel_scope.cancel()
    assert [event for event, _ in logged] == [
        "the cluster secret changed",
        "the cluster secret stays as it was",
        "the cluster secret stays as it was",
        "the cluster secret changed",
    ]
    assert "secret of" not in repr(logged)
    assert "short" not in repr(logged)


def point(link: Path, target: Path) -> None:
    fresh = link.with_name("..fresh")
    fresh.symlink_to(target)
    fresh.rename(link)


def test_networks_of_clients_add_to_this_machine() -> None:
    assert ClientNetworks().allows("127.0.0.1")
    assert not ClientNetworks().allows("192.0.2.1")
