from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
import trio

from peili.containerd.api import event_types_pb2, namespaces_pb2
from peili.containerd.channel import Method
from peili.containerd.client import Client, ContentRecord, Event, ImageRecord, Version
from peili.containerd.errors import ContainerdError, Failure
from tests.fakes import containerd as fakes
from tests.fakes.containerd import FakeContainerd

PATIENCE = 20.0  # seconds until a test is given up


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeContainerd]:
    with fakes.running(tmp_path) as fake:
        yield fake


@pytest.fixture
def client(fake: FakeContainerd) -> Iterator[Client]:
    with Client(fake.socket, "k8s.io") as client:
        yield client


async def test_a_call_is_answered_and_names_the_namespace(fake: FakeContainerd, client: Client) -> None:
    assert await client.version() == Version("9.9.9", "")
    assert ("containerd-namespace", "k8s.io") in fake.metadata


async def test_many_calls_at_once_share_the_connection(fake: FakeContainerd, client: Client) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(client.version)
    assert fake.calls[fakes.VERSION] == 50


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (grpc.StatusCode.NOT_FOUND, Failure.NOT_FOUND),
        (grpc.StatusCode.PERMISSION_DENIED, Failure.PERMISSION),
        (grpc.StatusCode.UNIMPLEMENTED, Failure.UNSUPPORTED),
        (grpc.StatusCode.UNAVAILABLE, Failure.UNAVAILABLE),
        (grpc.StatusCode.INTERNAL, Failure.OTHER),
    ],
)
async def test_status_codes_become_our_own_errors(
    fake: FakeContainerd, client: Client, code: grpc.StatusCode, failure: Failure
) -> None:
    fake.errors[fakes.VERSION] = code
    with pytest.raises(ContainerdError, match="as the test wants it") as caught:
        await client.version()
    assert caught.value.failure is failure


async def test_an_answer_that_is_no_message_is_refused(fake: FakeContainerd, client: Client) -> None:
    fake.garbage[fakes.VERSION] = b"\xff\xff\xff\xff"
    with pytest.raises(ContainerdError, match="not a message of containerd") as caught:
        await client.version()
    assert caught.value.failure is Failure.UNSUPPORTED
    fake.garbage[fakes.CONTENT] = b"\xff\xff\xff\xff"
    with pytest.raises(ContainerdError, match="not a message of containerd"):
        await client.list_content(10)


async def test_a_call_that_hangs_ends_at_its_deadline(fake: FakeContainerd, client: Client) -> None:
    fake.held.add(fakes.NAMESPACES)
    method = Method(fakes.NAMESPACES, namespaces_pb2.ListNamespacesRequest, namespaces_pb2.ListNamespacesResponse)
    with pytest.raises(ContainerdError, match="in time") as caught:
        await client.channel.unary(method, namespaces_pb2.ListNamespacesRequest(), timeout=0.05)
    assert caught.value.failure is Failure.UNAVAILABLE


async def test_cancelling_the_task_cancels_the_call(fake: FakeContainerd, client: Client) -> None:
    fake.held.add(fakes.VERSION)
    with trio.fail_after(PATIENCE):
        with trio.move_on_after(0.05) as scope:
            await client.version()
        assert scope.cancelled_caught
        await _until(lambda: fake.ended[fakes.VERSION] == 1)  # though nobody has let it answer
        fake.held.clear()
        assert (await client.version()).version == "9.9.9"  # the channel is as good as before


async def test_cancelling_a_stream_cancels_it_there(fake: FakeContainerd, client: Client) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read_events, client, [])
            await _until(lambda: fake.subscribed == 1)
            nursery.cancel_scope.cancel()
        await _until(lambda: fake.subscribed == 0)


async def test_closing_the_channel_fails_what_waits(fake: FakeContainerd, client: Client) -> None:
    fake.held.add(fakes.VERSION)

    async def call() -> None:
        with pytest.raises(ContainerdError) as caught:
            await client.version()
        assert caught.value.failure is Failure.UNAVAILABLE

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await _until(lambda: fake.calls[fakes.VERSION] == 1)
            client.close()
    with pytest.raises(ContainerdError, match="closed"):
        await client.version()
    with pytest.raises(ContainerdError, match="closed"):
        await client.list_content(10)


async def test_a_long_listing_comes_whole(fake: FakeContainerd, client: Client) -> None:
    fake.content = {f"sha256:{number:064x}": number for number in range(1_234)}
    listed = await client.list_content(10_000)
    assert listed == [ContentRecord(digest, size) for digest, size in fake.content.items()]


async def test_a_listing_is_bounded(fake: FakeContainerd, client: Client) -> None:
    fake.content = {f"sha256:{number:064x}": number for number in range(1_234)}
    assert len(await client.list_content(150)) == 150


async def test_what_is_not_there_is_none(fake: FakeContainerd, client: Client) -> None:
    assert await client.content("sha256:" + "0" * 64) is None
    assert await client.image("docker.io/library/none:1") is None


async def test_images(fake: FakeContainerd, client: Client) -> None:
    fake.add_image("docker.io/library/a:1", "type/x", "sha256:abc", 7)
    assert await client.images() == [ImageRecord("docker.io/library/a:1", "type/x", "sha256:abc", 7)]
    assert await client.image("docker.io/library/a:1") == (await client.images())[0]


async def test_events_arrive_in_order_and_unreadable_ones_have_no_subject(
    fake: FakeContainerd, client: Client
) -> None:
    seen: list[Event] = []
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read_events, client, seen)
            await _until(lambda: fake.subscribed == 1)
            fake.publish("/images/create", event_types_pb2.ImageCreate(name="a"))
            fake.publish("/content/delete", event_types_pb2.ContentDelete(digest="sha256:x"), "moby")
            fake.publish("/other", event_types_pb2.ContentDelete(digest="sha256:x"))
            await _until(lambda: len(seen) == 3)
            nursery.cancel_scope.cancel()
    assert seen == [
        Event("k8s.io", "/images/create", "a"),
        Event("moby", "/content/delete", "sha256:x"),
        Event("k8s.io", "/other", ""),
    ]


async def test_a_restart_ends_a_stream_and_the_channel_finds_the_new_server(
    fake: FakeContainerd, client: Client
) -> None:
    async def expect_end() -> None:
        with suppress(ContainerdError):
            await _read_events(client, [])

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_end)
            await _until(lambda: fake.subscribed == 1)
            fake.stop()
        with pytest.raises(ContainerdError):
            await client.version()
        fake.start()
        while True:
            try:
                await client.version()
                break
            except ContainerdError:
                await trio.sleep(0.01)


async def test_without_descriptors_the_error_is_ours_too(
    fake: FakeContainerd, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(trio.socket, "socket", none_left)
        with pytest.raises(ContainerdError, match="Too many open files") as caught:
            await client.version()
    assert caught.value.failure is Failure.UNAVAILABLE
    assert (await client.version()).version == "9.9.9"


async def test_a_missing_socket_is_named(tmp_path: Path) -> None:
    await _fails(tmp_path / "none.sock", Failure.UNAVAILABLE, "no socket at")


async def test_a_file_in_place_of_the_socket_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    await _fails(tmp_path / "file", Failure.UNAVAILABLE, "not a socket")


async def test_a_socket_that_nobody_listens_on_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "left.sock"))
    await _fails(tmp_path / "left.sock", Failure.UNAVAILABLE, "nobody listens")


async def test_a_server_that_does_not_speak_grpc_is_named(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening.dup()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            with trio.fail_after(PATIENCE), Client(path, "k8s.io") as client:
                with pytest.raises(ContainerdError) as caught:
                    await client.version()
                assert caught.value.failure is Failure.UNAVAILABLE
            nursery.cancel_scope.cancel()


async def _fails(path: Path, failure: Failure, words: str) -> None:
    with (
        trio.fail_after(PATIENCE),
        Client(path, "k8s.io") as client,
        pytest.raises(ContainerdError, match=words) as caught,
    ):
        await client.version()
    assert caught.value.failure is failure
    assert str(path) in str(caught.value)


async def _read_events(client: Client, seen: list[Event]) -> None:
    async with client.events(["topic~=|^/images/|"]) as events:
        async for event in events:
            seen.append(event)


async def _until(condition: object) -> None:
    """Wait for what another thread does, of which trio hears nothing."""
    assert callable(condition)
    while not condition():
        await trio.sleep(0.002)
