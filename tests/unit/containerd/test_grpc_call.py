"""What a gRPC server may say wrong; a real one (gRPC's own) answers in test_channel."""

from __future__ import annotations

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived

from peili.containerd.grpc_call import MAXIMUM_REQUEST, CallEnded, GrpcExchange, NotGrpc, Status

OK = [(":status", "200"), ("content-type", "application/grpc")]


class Server:
    """The other side of one exchange, on h2 as well."""

    def __init__(self) -> None:
        self.exchange = GrpcExchange(maximum=1000)
        self.exchange.ask("/package.Service/Method", b"question", [("containerd-namespace", "k8s.io")])
        self.http = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.http.initiate_connection()
        self.events = self.http.receive_data(self.exchange.to_send())

    def headers(self, headers: list[tuple[str, str]], *, end: bool = False) -> None:
        self.http.send_headers(1, headers, end_stream=end)

    def message(self, content: bytes, *, compressed: bool = False) -> None:
        self.http.send_data(1, bytes([compressed]) + len(content).to_bytes(4, "big") + content)

    def say(self, *, piece: int = 10_000) -> None:
        data = self.http.data_to_send()
        for start in range(0, len(data), piece):
            self.exchange.feed(data[start : start + piece])
            self.http.receive_data(self.exchange.to_send())


def test_the_request_is_as_grpc_wants_it() -> None:
    events = Server().events
    [headers] = [event.headers or [] for event in events if isinstance(event, RequestReceived)]
    assert {str(name): str(value) for name, value in headers} == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/package.Service/Method",
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "peili",
        "containerd-namespace": "k8s.io",
    }
    [data] = [event.data for event in events if isinstance(event, DataReceived)]
    assert data == b"\0\0\0\0\x08question"


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_answers_come_whole_and_in_order_however_they_are_cut(piece: int) -> None:
    server = Server()
    server.headers(OK)
    server.message(b"one")
    server.message(b"")
    server.message(b"three" * 100)
    server.headers([("grpc-status", "0")], end=True)
    server.say(piece=piece)
    assert [server.exchange.next_answer() for _ in range(4)] == [b"one", b"", b"three" * 100, None]
    assert server.exchange.has_ended()


def test_an_answer_goes_on_beyond_the_first_window() -> None:
    server = Server()
    server.headers(OK)
    for number in range(300):  # 300 KB; a window begins with 64
        server.message(bytes([number % 256]) * 1000)
        server.say()
        assert server.exchange.next_answer() == bytes([number % 256]) * 1000
    assert not server.exchange.has_ended()


def test_a_refusal_has_its_code_and_its_text() -> None:
    server = Server()
    server.headers([*OK, ("grpc-status", "5"), ("grpc-message", "image %22a%22: not found")], end=True)
    server.say()
    with pytest.raises(CallEnded, match='image "a": not found') as caught:
        server.exchange.has_ended()
    assert caught.value.status == Status.NOT_FOUND


@pytest.mark.parametrize("status", ["", "x", "-1", "0123", "²"])
def test_an_end_without_a_status_is_no_grpc(status: str) -> None:
    server = Server()
    server.headers(OK)
    server.headers([("grpc-status", status)], end=True)
    server.say()
    with pytest.raises(NotGrpc, match="no gRPC status"):
        server.exchange.has_ended()


def test_another_http_status_is_no_grpc() -> None:
    server = Server()
    server.headers([(":status", "503")], end=True)
    with pytest.raises(NotGrpc, match="503"):
        server.say()


def test_a_message_beyond_the_limit_ends_the_call_before_it_is_here() -> None:
    server = Server()
    server.headers(OK)
    server.http.send_data(1, b"\0\x7f\xff\xff\xff")
    with pytest.raises(CallEnded, match="too long"):
        server.say()


def test_a_compressed_message_is_refused() -> None:
    server = Server()
    server.headers(OK)
    server.message(b"x", compressed=True)
    with pytest.raises(NotGrpc, match="compressed"):
        server.say()


def test_an_end_within_a_message_is_no_good_end() -> None:
    server = Server()
    server.headers(OK)
    server.http.send_data(1, b"\0\0\0\0\x09half")
    server.headers([("grpc-status", "0")], end=True)
    server.say()
    assert server.exchange.next_answer() is None
    with pytest.raises(CallEnded, match="within a message"):
        server.exchange.has_ended()


def test_a_reset_and_a_closed_connection_end_the_call() -> None:
    server = Server()
    server.http.reset_stream(1, 8)
    with pytest.raises(CallEnded, match="reset") as caught:
        server.say()
    assert caught.value.status == Status.CANCELLED
    with pytest.raises(CallEnded, match="closed") as caught:
        Server().exchange.feed(b"")
    assert caught.value.status == Status.UNAVAILABLE


def test_a_request_that_no_window_need_hold_is_not_sent() -> None:
    with pytest.raises(CallEnded, match="too long"):
        GrpcExchange(maximum=1000).ask("/a/b", bytes(MAXIMUM_REQUEST + 1), ())
