"""Peers that finished the handshake and mean ill: at the router, and as holders; an honest client keeps pulling."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from peili.demo.images import build_image
from peili.demo.process import REGISTRY_PORT, ROUTER_PORT
from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import kad_key, key_digest
from peili.kademlia.message import Message, MessageType, encode
from peili.kademlia.own_message import MAX_KEYS, Provide, encode_own
from peili.kademlia.records import MAX_RECORDS_OF_PROVIDER
from peili.libp2p.errors import Libp2pError
from peili.libp2p.host import Connection, Host, HostLimits, Stream
from peili.libp2p.identity import Identity
from peili.libp2p.multiaddr import Multiaddr
from peili.oci.digest import Digest
from peili.oci.key import Key
from tests.fakes.honest import honest_client
from tests.fakes.nodes import fetch, next_host
from tests.fakes.processes import Cluster, Node, blob_target, cluster, keys_of, manifest_target, wait_offered
from tests.fakes.wire import read_request

pytestmark = pytest.mark.slow

NAME = "registry.example/hostile:members"
IMAGE = build_image("hostile members", layer_sizes=(3_000_000, 5_000))
LARGE, SMALL = IMAGE.layers
MANIFEST = IMAGE.descriptor
KAD, OWN, FOLLOW = "/peili/kad/1.0.0", "/peili/peili/1.0.0", "/peili/follow/1.0.0"
CHEAP = HostLimits(connections=1000)


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path) as value:
        yield value


async def pair(made: Cluster) -> tuple[Node, Node]:
    [holder] = await made.start(1, "--stall-timeout", "1s", images=[(NAME, IMAGE)])
    [puller] = await made.start(1, "--stall-timeout", "1s", "--zone", "z")
    await wait_offered(puller, NAME, IMAGE)
    return holder, puller


async def attacker(
    made: Cluster, node: Node, kad: Callable[[Stream], Awaitable[None]] | None = None
) -> tuple[Host, Connection]:
    """A peer of the node's; where it is given, it answers Kademlia."""
    host = Host(
        Identity.generate(),
        agent_version="attacker",
        registry_port=REGISTRY_PORT,
        limits=CHEAP,
        source_addresses=(next_host(),),
    )
    if kad is not None:
        host.set_handler(KAD, kad)

    async def run(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await host.run([], task_status=task_status)

    await made.nursery.start(run)
    return host, await host.connect(node.host, ROUTER_PORT, None, 10)


# At the router


async def nonsense(connection: Connection, protocol: str) -> None:
    """Frames that are none, too long, cut."""
    frames = [b"", b"\xff" * 30, os.urandom(500), b"\x08\x63", b"\x12\xff\xff\xff\xff\x0f", bytes(65_000)]
    for frame in frames * 2:
        with suppress(Libp2pError, trio.TooSlowError), trio.fail_after(0.5):
            async with await connection.open_stream(protocol) as stream:
                await stream.write_frame(frame)
                await stream.read_frame(65536)


async def provide_flood(connection: Connection) -> None:
    """Records without end, of keys that nobody has."""
    with suppress(Libp2pError, trio.TooSlowError), trio.fail_after(30):
        async with await connection.open_stream(OWN) as stream:
            for _ in range(3 * MAX_RECORDS_OF_PROVIDER // MAX_KEYS):
                keys = tuple(os.urandom(32) for _ in range(MAX_KEYS))
                await stream.write_frame(encode_own(Provide(keys, ttl=10**6, registry_port=1)))
                await stream.read_frame(65536)


async def question_flood(connection: Connection) -> None:
    with suppress(Libp2pError, trio.TooSlowError), trio.move_on_after(3):
        async with await connection.open_stream(KAD) as stream:
            while True:
                key = kad_key(os.urandom(32))
                await stream.write_frame(encode(Message(MessageType.GET_PROVIDERS, key)))
                await stream.read_frame(1 << 20)


async def records_for_others(connection: Connection) -> None:
    """The layer is said to be at peers that never said so, and elsewhere."""
    address = Multiaddr.of("127.0.0.66", 22).to_bytes()
    key = kad_key(key_digest(Key(str(LARGE.digest))))
    with suppress(Libp2pError, trio.TooSlowError), trio.fail_after(30):
        async with await connection.open_stream(KAD) as stream:
            for number in range(1000):
                peer_id = os.urandom(38) if number % 20 else Identity.generate().peer_id.to_bytes()
                other = Contact(peer_id, (address,), 22, "z")
                await stream.write_frame(encode(Message(MessageType.ADD_PROVIDER, key, provider_peers=(other,))))
            await stream.write_frame(encode(Message(MessageType.PING)))
            await stream.read_frame(65536)


async def stream_flood(connection: Connection) -> None:
    """As many streams as it may have, all silent."""
    with suppress(Libp2pError), trio.move_on_after(3):
        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(_open_and_wait, connection)


async def _open_and_wait(connection: Connection) -> None:
    with suppress(Libp2pError):
        async with await connection.open_stream(KAD):
            await trio.sleep_forever()


async def test_floods_at_the_router(made: Cluster) -> None:
    holder, puller = await pair(made)
    before = puller.use()
    async with honest_client(puller, NAME, IMAGE), trio.open_nursery() as nursery:
        for attack in (provide_flood, question_flood, question_flood, records_for_others, stream_flood):
            for node in (holder, puller):
                nursery.start_soon(attack, (await attacker(made, node))[1])
        for protocol in (KAD, OWN, FOLLOW, "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/none"):
            nursery.start_soon(nonsense, (await attacker(made, puller))[1], protocol)
    records = (await puller.status())["router"]["records"]
    assert MAX_RECORDS_OF_PROVIDER // 2 < records < MAX_RECORDS_OF_PROVIDER + 1000
    await puller.wait_as_before(before)
    await holder.wait_as_before(before)


async def test_a_crowd_of_identities_is_capped(made: Cluster) -> None:
    """One address makes identities by the dozen: it gets 32 connections, and honest nodes come in all the same."""
    holder, puller = await pair(made)
    before = puller.use()
    source, connected = next_host(), []

    async def connect() -> None:
        host = Host(Identity.generate(), agent_version="a", limits=CHEAP, source_addresses=(source,))

        async def run(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            await host.run([], task_status=task_status)

        await made.nursery.start(run)
        with suppress(Libp2pError):
            connected.append(await host.connect(puller.host, ROUTER_PORT, None, 10))

    async with honest_client(puller, NAME, IMAGE), trio.open_nursery() as nursery:
        for _ in range(150):
            nursery.start_soon(connect)
    alive = [connection for connection in connected if not connection.closed]
    assert 0 < len(alive) <= HostLimits().connections_per_address
    [late] = await made.start(1)
    await wait_offered(late, NAME, IMAGE)
    for connection in connected:
        await connection.aclose()
    await puller.wait_as_before(before)
    assert holder.errors() == []


async def test_provider_addresses_that_point_elsewhere(made: Cluster) -> None:
    """Answers name many providers at a host that is none: it is dialled a few times, and no HTTP reaches it."""
    _, puller = await pair(made)
    before = puller.use()
    victim, heard = next_host(), []

    async def listen(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):
                heard.append(bytes(await stream.receive_some(65536)))

    victims = [*await trio.open_tcp_listeners(22, host=victim), *await trio.open_tcp_listeners(80, host=victim)]
    made.nursery.start_soon(trio.serve_listeners, listen, victims)
    addresses = tuple(Multiaddr.of(victim, port).to_bytes() for port in (22, 80))
    pointing = tuple(
        Contact(Identity.generate().peer_id.to_bytes(), addresses, 80, "z") for _ in range(60)
    )  # fmt: skip

    async def answer(stream: Stream) -> None:
        while await stream.read_frame(65536) is not None:
            await stream.write_frame(encode(Message(MessageType.GET_PROVIDERS, b"", pointing[:20], pointing)))

    for _ in range(3):
        await attacker(made, puller, answer)
    async with honest_client(puller, NAME, IMAGE) as honest:
        for number in range(20):
            digest = hashlib.sha256(str(number).encode()).hexdigest()
            answered = await fetch(puller.host, f"/v2/x/blobs/sha256:{digest}?ns=docker.io")
            assert answered.status == 404
        await honest.wait_pulls(5)
    assert not [data for data in heard if data.startswith((b"GET", b"HEAD"))]
    assert len(heard) < 60, "an answer makes us hammer a host"
    await puller.wait_as_before(before)


# As holders

Handler = Callable[[trio.SocketStream], Awaitable[None]]


def always(*pieces: bytes, endless: bytes = b"") -> Handler:
    """To every request these bytes, and then others without end."""

    async def handle(stream: trio.SocketStream) -> None:
        buffer = bytearray()
        while await read_request(stream, buffer) is not None:
            for piece in pieces:
                await stream.send_all(piece)
            while endless:
                await stream.send_all(endless)

    return handle


def head(*fields: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode()


TYPE = f"Content-Type: {MANIFEST.media_type}"
DIGEST = f"Docker-Content-Digest: {MANIFEST.digest}"
OTHER = build_image("another one")
OTHER_MANIFEST = OTHER.blobs[OTHER.descriptor.digest]
HUGE = 100_000_000
# Right in every header, for its tag; as Python objects it would be thirty times as large.
LISTS = b'{"mediaType": "%s", "a": [%s[]]}' % (MANIFEST.media_type.encode(), b"[]," * 1_000_000)
LIARS: dict[str, Handler] = {
    "garbage": always(os.urandom(2000)),
    "no length": always(head(TYPE, DIGEST, "Transfer-Encoding: chunked"), endless=b"4\r\nabcd\r\n"),
    "too short": always(head(TYPE, DIGEST, "Content-Length: 10"), b"x" * 10),
    "too long": always(head(TYPE, DIGEST, "Content-Length: 500"), b"x" * 500),
    "negative": always(head(TYPE, DIGEST, "Content-Length: -5")),
    "two lengths": always(head(TYPE, DIGEST, "Content-Length: 5", "Content-Length: 6"), b"x" * 6),
    "wrong type": always(head("Content-Type: text/html", DIGEST, "Content-Length: 6"), b"<html>"),
    "endless header": always(head(TYPE)[:-2], endless=b"A: " + b"b" * 1000 + b"\r\n"),
    "endless header field": always(b"HTTP/1.1 200 OK\r\nA: ", endless=b"b" * 1000),
    "endless 100": always(endless=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "endless body": always(head(TYPE, DIGEST, f"Content-Length: {10**15}"), endless=bytes(65536)),
    "endless body without a length": always(head(TYPE, DIGEST, "Connection: close"), endless=bytes(65536)),
    "100 MB manifest": always(head(TYPE, DIGEST, f"Content-Length: {HUGE}"), endless=b" " * 65536),
    "manifest of a million lists": always(
        head(TYPE, f"Docker-Content-Digest: {Digest.of(LISTS)}", f"Content-Length: {len(LISTS)}"), LISTS
    ),
    "another key": always(
        head(TYPE, f"Docker-Content-Digest: {OTHER.descriptor.digest}", f"Content-Length: {len(OTHER_MANIFEST)}"),
        OTHER_MANIFEST,
    ),
    "another key under this digest": always(
        head(TYPE, DIGEST, f"Content-Length: {len(OTHER_MANIFEST)}"), OTHER_MANIFEST
    ),
    "another range": always(
        head("Content-Range: bytes 5-9/10", "Content-Length: 5", status="206 Partial Content"), b"x" * 5
    ),
    "redirect": always(
        head("Location: http://127.0.0.1:22/", "Content-Length: 0", status="307 Temporary Redirect")
    ),
    "challenge": always(
        head('WWW-Authenticate: Bearer realm="http://evil"', "Content-Length: 0", status="401 Unauthorized")
    ),
    "too many requests": always(head("Retry-After: 1000", "Content-Length: 0", status="429 Too Many Requests")),
}


# The tag is left out: for a tag the answer of any peer counts, where there is no cluster secret (security.md).
KEYS = [key for key in keys_of(NAME, IMAGE) if key not in (NAME, str(LARGE.digest))]
TARGETS = {
    f"/v2/hostile/manifests/{MANIFEST.digest}?ns=registry.example": IMAGE.blobs[MANIFEST.digest],
    blob_target(NAME, SMALL.digest): IMAGE.blobs[SMALL.digest],
}


async def test_a_holder_that_lies_costs_nobody_a_pull(made: Cluster) -> None:
    """One liar after another joins, of our zone, where it is asked first; the content comes all the same."""
    _, puller = await pair(made)
    before = puller.use()
    async with honest_client(puller, NAME, IMAGE):
        for liar, handler in LIARS.items():
            await made.peer(KEYS, handler, zone="z")
            for _ in range(2):
                for target, content in TARGETS.items():
                    answer = await fetch(puller.host, target)
                    assert (answer.status, answer.body) == (200, content), (liar, target)
    assert await puller.metric("peili_provider_failures_total") >= len(LIARS) // 2
    await puller.wait_as_before(before, new_peers=len(LIARS))


async def test_a_crowd_of_liars_can_send_a_pull_upstream_and_no_more(made: Cluster) -> None:
    """So many lie that the honest holder is not reached in as many attempts as one request makes."""
    _, puller = await pair(made)
    before = puller.use()
    for handler in LIARS.values():
        await made.peer(KEYS, handler, zone="z")
    for _ in range(20):
        for target, content in TARGETS.items():
            answer = await fetch(puller.host, target)
            assert answer.status in (200, 404)
            assert "WWW-Authenticate" not in answer.headers
            assert answer.status == 404 or answer.body == content
    answers = [await fetch(puller.host, target) for target in TARGETS]
    assert [answer.status for answer in answers] == [200, 200], "liars are known by now, and asked last"
    await puller.wait_as_before(before, new_peers=len(LIARS))


async def test_a_tag_without_a_good_answer_is_not_there(made: Cluster) -> None:
    """Nobody but liars knows this tag."""
    _, puller = await pair(made)
    name = "registry.example/hostile:unknown"
    for liar, handler in LIARS.items():
        if not liar.startswith("another key"):
            await made.peer([Key(name)], handler)
    before = puller.use()
    for _ in range(10):
        assert (await fetch(puller.host, manifest_target(name))).status == 404
    await puller.wait_as_before(before)
