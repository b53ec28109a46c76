"""Any bytes and any text either parse or raise the error of that parser; what is written is read back."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from peili.libp2p import varint
from peili.libp2p.certificate import CertificateError, verify_certificate
from peili.libp2p.errors import ProtocolNotSupported
from peili.libp2p.identify import Identify, InvalidIdentify, encode_identify, parse_identify
from peili.libp2p.identity import Identity
from peili.libp2p.multiaddr import InvalidMultiaddr, Multiaddr
from peili.libp2p.multistream import HEADER, MultistreamError, Proposer, Responder, encode_line
from peili.libp2p.peer_id import InvalidPeerId, PeerId
from peili.libp2p.protobuf import InvalidProtobuf, field, fields
from peili.libp2p.tls import TlsContexts, TlsError
from peili.libp2p.yamux import MAX_OUTBOX, Yamux, YamuxError
from tests.properties.effort import examples

MODERATE = settings(deadline=None, max_examples=examples(200))
FEW = settings(deadline=None, max_examples=examples(50))
ME = Identity.generate().peer_id
CONTEXTS = TlsContexts(Identity.generate().certificate())

WORDS = ["ip4", "ip6", "tcp", "p2p", "dns", "1.2.3.4", "::1", "80", "a", "", str(ME)]
PARTS = [b"\x04\x01\x02\x03\x04", b"\x06\x00\x50", b"\xa5\x03\x26", b"\x35\x01a", b"\x29", b"\x2a\x01z"]
LINES = [encode_line(HEADER), encode_line("/a"), encode_line("na")]
IDENTIFY_FIELDS = [1, 2, 3, 4, 5, 6, 8, 1001, 1002]

peer_ids = st.binary(min_size=32, max_size=32).map(PeerId.of_public_key)
numbers = st.integers(0, 2**63 - 1)
multiaddrs = st.builds(
    Multiaddr.of,
    st.one_of(
        st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number))),
        st.integers(0, 2**128 - 1).map(lambda number: str(IPv6Address(number))),
        st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{1,5})?", fullmatch=True),
    ),
    st.integers(0, 65535),
    st.one_of(st.none(), peer_ids),
)
frames = st.builds(
    lambda version, kind, flags, stream, length, body: (
        bytes([version, kind])
        + flags.to_bytes(2, "big")
        + stream.to_bytes(4, "big")
        + (len(body) if length is None else length).to_bytes(4, "big")
        + body
    ),
    st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1]),
    st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4]),
    st.integers(0, 15),
    st.sampled_from([0, 1, 1, 2, 3, 2**32 - 1]),
    st.one_of(st.none(), st.none(), st.integers(0, 2**32 - 1)),
    st.binary(max_size=40),
)


@MODERATE
@given(st.binary(max_size=12))
def test_varints(data: bytes) -> None:
    with suppress(varint.InvalidVarint):
        read = varint.decode(data)
        assert read is None or 0 < read[1] <= len(data)


@MODERATE
@given(numbers)
def test_varints_are_read_back(number: int) -> None:
    encoded = varint.encode(number)
    assert varint.decode(b"x" + encoded + b"y", 1) == (number, 1 + len(encoded))
    assert all(varint.decode(encoded[:cut]) is None for cut in range(len(encoded)))


@MODERATE
@given(st.one_of(st.text(max_size=140), st.from_regex(r"(12D3KooW|Qm|bafz)[0-9a-zA-Z]{0,60}", fullmatch=True)))
def test_peer_ids_as_text(text: str) -> None:
    with suppress(InvalidPeerId):
        peer_id = PeerId.parse(text)
        assert PeerId.parse(str(peer_id)) == peer_id


@MODERATE
@given(st.binary(max_size=50))
def test_peer_ids_as_bytes(raw: bytes) -> None:
    with suppress(InvalidPeerId):
        assert PeerId.parse(str(PeerId(raw))).to_bytes() == raw


@MODERATE
@given(
    st.one_of(
        st.text(max_size=80),
        st.lists(
            st.sampled_from(["ip4", "ip6", "tcp", "p2p", "dns", "1.2.3.4", "::1", "80", "a", "", str(ME)])
        ).map(lambda words: "/" + "/".join(words)),
    )
)
def test_multiaddrs_as_text(text: str) -> None:
    with suppress(InvalidMultiaddr):
        address = Multiaddr.parse(text)
        assert Multiaddr.parse(str(address)) == address == Multiaddr.parse(address.to_bytes())


@MODERATE
@given(
    st.one_of(
        st.binary(max_size=600),
        st.lists(st.sampled_from(PARTS)).map(b"".join),
    )
)
def test_multiaddrs_as_bytes(raw: bytes) -> None:
    with suppress(InvalidMultiaddr):
        address = Multiaddr.parse(raw)
        assert Multiaddr.parse(address.to_bytes()) == address


@MODERATE
@given(multiaddrs)
def test_multiaddrs_are_read_back(address: Multiaddr) -> None:
    assert Multiaddr.parse(str(address)) == address == Multiaddr.parse(address.to_bytes())


@MODERATE
@given(st.binary(max_size=200))
def test_protobuf(message: bytes) -> None:
    with suppress(InvalidProtobuf):
        for number, _value in fields(message):
            assert number > 0


@MODERATE
@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.one_of(numbers, st.binary(max_size=50))), max_size=20))
def test_protobuf_is_read_back(expected: list[tuple[int, int | bytes]]) -> None:
    assert list(fields(b"".join(field(number, value) for number, value in expected))) == expected


@MODERATE
@given(
    st.one_of(
        st.binary(max_size=300),
        st.lists(
            st.builds(field, st.sampled_from(IDENTIFY_FIELDS), st.one_of(numbers, st.binary(max_size=60)))
        ).map(b"".join),
    )
)
def test_identify(message: bytes) -> None:
    with suppress(InvalidIdentify):
        about = parse_identify(message, Identify(ME))
        assert about.peer_id == ME
        assert 0 <= about.registry_port <= 65535
        assert len(about.zone.encode()) <= 64


printable = st.text(st.characters(exclude_categories=("C", "Z")), max_size=16)


@MODERATE
@given(
    st.builds(
        Identify,
        st.just(ME),
        st.frozensets(printable, min_size=1, max_size=5),
        printable,
        printable,
        st.lists(multiaddrs, max_size=4).map(tuple),
        st.integers(0, 65535),
        printable,
    ),
    st.one_of(st.none(), multiaddrs),
)
def test_identify_is_read_back(about: Identify, observed: Multiaddr | None) -> None:
    assert parse_identify(encode_identify(about, observed), Identify(ME)) == about


@MODERATE
@given(
    st.lists(
        st.one_of(st.binary(max_size=20), st.sampled_from(LINES)),
        max_size=30,
    )
)
def test_multistream(pieces: list[bytes]) -> None:
    responder, proposer = Responder({"/a"}), Proposer("/a")
    with suppress(MultistreamError):
        buffer = bytearray()
        for piece in pieces:
            buffer += piece
            if responder.receive(buffer)[1] is not None:
                break
    with suppress(MultistreamError, ProtocolNotSupported):
        buffer = bytearray()
        for piece in pieces:
            buffer += piece
            if proposer.receive(buffer):
                break


@MODERATE
@given(st.booleans(), st.lists(st.one_of(frames, st.binary(max_size=30)), max_size=40))
def test_yamux(client: bool, pieces: list[bytes]) -> None:
    yamux = Yamux(client=client)
    yamux.open_stream()
    with suppress(YamuxError):
        for piece in pieces:
            yamux.receive(piece)
            assert yamux.open_streams <= 256
            assert len(yamux.take_output()) <= MAX_OUTBOX


@FEW
@given(st.lists(st.one_of(frames.filter(lambda wire: wire[0] == 0), st.just(b"")), max_size=20), st.data())
def test_yamux_does_not_care_how_bytes_are_cut(pieces: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))

    def play(parts: list[bytes]) -> tuple[str, bytes, int]:
        yamux = Yamux(client=False)
        error = ""
        try:
            for part in parts:
                yamux.receive(part)
        except YamuxError as problem:
            error = str(problem)
        return error, yamux.take_output(), yamux.open_streams

    bounds = [0, *cuts, len(wire)]
    assert play([wire]) == play([wire[start:end] for start, end in pairwise(bounds)])


@cache
def good_certificate() -> bytes:
    return Identity.generate().certificate().certificate.public_bytes(Encoding.DER)


@MODERATE
@given(st.binary(max_size=300))
def test_certificates(der: bytes) -> None:
    with suppress(CertificateError):
        verify_certificate(der, datetime.now(UTC))


@settings(deadline=None, max_examples=examples(500))
@given(st.data())
def test_certificates_with_changed_bytes(data: st.DataObject) -> None:
    der = bytearray(good_certificate())
    changes = data.draw(
        st.lists(st.tuples(st.integers(0, len(der) - 1), st.integers(0, 255)), min_size=1, max_size=4)
    )
    for position, value in changes:
        der[position] = value
    with suppress(CertificateError):
        verify_certificate(bytes(der), datetime.now(UTC))


@FEW
@given(st.booleans(), st.lists(st.binary(min_size=1, max_size=100), max_size=5))
def test_tls_handshakes(server: bool, pieces: list[bytes]) -> None:
    channel = CONTEXTS.server() if server else CONTEXTS.client()
    with suppress(TlsError):
        if not server:
            channel.handshake(b"")
        for piece in pieces:
            assert not channel.handshake(piece)
    channel.close()
