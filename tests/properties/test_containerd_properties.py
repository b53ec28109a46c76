"""Whatever containerd, or what sits on its socket, says: it is parsed, or is our own error."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peili.containerd.api import content_pb2, cri_pb2, events_pb2, images_pb2, introspection_pb2
from peili.containerd.channel import Channel, Method
from peili.containerd.client import _SUBJECTS, ImageRecord, _subject
from peili.containerd.cri import RuntimeStatus
from peili.containerd.errors import ContainerdError
from peili.containerd.grpc_call import CallEnded, GrpcExchange, NotGrpc
from peili.oci.digest import Digest
from peili.store.containerd.content import changed_digest
from peili.store.containerd.session import image_target
from tests.properties.effort import examples

MESSAGES: list[Any] = [
    content_pb2.ListContentResponse,
    content_pb2.InfoResponse,
    images_pb2.ListImagesResponse,
    events_pb2.Envelope,
    introspection_pb2.PluginsResponse,
    cri_pb2.StatusResponse,
]


@pytest.mark.parametrize("message", MESSAGES)
@settings(deadline=None, max_examples=examples(100))
@given(raw=st.binary(max_size=300))
def test_any_bytes_parse_or_raise_our_own_error(message: Any, raw: bytes) -> None:
    with Channel(Path("/nowhere.sock")) as channel, suppress(ContainerdError):
        assert isinstance(channel.parse(Method("/a/b", message, message), raw), message)


@st.composite
def _servers(draw: st.DrawFn) -> bytes:
    """What a server might write: frames of HTTP/2 with any type, flags and content, or any bytes."""
    preface = draw(st.sampled_from([b"\0\0\0\4\0\0\0\0\0", b""]))
    written = preface
    for _ in range(draw(st.integers(0, 6))):
        content = draw(
            st.binary(max_size=40)
            | st.sampled_from(
                [b"\x88", b"\x88\x40\x0bgrpc-status\x01\x30", b"\0\0\0\0\2ok", b"\x40\x0bgrpc-status\x01\x35"]
            )
        )
        kind, flags = draw(st.integers(0, 9)), draw(st.sampled_from([0, 1, 4, 5, 255]))
        stream = draw(st.sampled_from([0, 1, 1, 1, 2, 3]))
        written += len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content
    return written + draw(st.binary(max_size=20))


@settings(deadline=None, max_examples=examples(400))
@given(written=_servers(), cut=st.integers(1, 200))
def test_any_bytes_of_a_server_are_answers_or_a_named_error(written: bytes, cut: int) -> None:
    exchange = GrpcExchange(maximum=1000)
    exchange.ask("/a/b", b"request", ())
    assert exchange.to_send().startswith(b"PRI * HTTP/2.0")
    with suppress(NotGrpc, CallEnded):
        for start in range(0, len(written), cut):
            exchange.feed(written[start : start + cut])
            while (answer := exchange.next_answer()) is not None:
                assert len(answer) <= 1000
            exchange.has_ended()


@settings(deadline=None, max_examples=examples(200))
@given(topic=st.sampled_from([*_SUBJECTS, "/tasks/exit", ""]), value=st.binary(max_size=200))
def test_any_event_has_a_subject_or_none(topic: str, value: bytes) -> None:
    envelope = events_pb2.Envelope(topic=topic)
    envelope.event.value = value
    assert isinstance(_subject(envelope), str)


@settings(deadline=None, max_examples=examples(200))
@given(st.builds(ImageRecord, st.text(), st.text(), st.text(), st.integers(-(2**63), 2**63 - 1)))
def test_any_image_record_has_a_target_or_none(record: ImageRecord) -> None:
    target = image_target(record)
    assert target is None or (str(target.digest) == record.digest and target.size >= 0)


@settings(deadline=None, max_examples=examples(200))
@given(st.sampled_from(["sha256", "sha512", ""]), st.text())
def test_any_file_name_is_a_digest_or_none(algorithm: str, name: str) -> None:
    digest = changed_digest(algorithm, name)
    assert digest is None or digest == Digest(algorithm, name)


@settings(deadline=None, max_examples=examples(200))
@given(st.text())
def test_any_settings_text_is_an_object_or_none(text: str) -> None:
    config = RuntimeStatus({}, {"config": text}).config()
    assert config is None or isinstance(config, dict)
