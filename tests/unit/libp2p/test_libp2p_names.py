"""Peer ids, multiaddrs and the identity file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from peili.libp2p.identity import Identity, IdentityError
from peili.libp2p.multiaddr import InvalidMultiaddr, Multiaddr
from peili.libp2p.peer_id import InvalidPeerId, PeerId

# From the peer-ids specification: one key, base58btc and CIDv1.
SHA256_ID = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
ED25519_ID = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
ED25519_CID = "bafzaajaiaejcal72gwuz2or47oyxxn6b3rkwdmmkrxgkjxzy3rqt5kczyn7lcm3l"


def test_peer_ids_of_the_specification() -> None:
    assert str(PeerId.parse(ED25519_ID)) == ED25519_ID
    assert PeerId.parse(ED25519_CID) == PeerId.parse(ED25519_ID)
    assert str(PeerId.parse(SHA256_ID)) == SHA256_ID
    raw = PeerId.parse(ED25519_ID).to_bytes()
    assert raw.startswith(bytes.fromhex("002408011220"))
    assert PeerId.of_public_key(raw[6:]) == PeerId(raw)


@pytest.mark.parametrize(
    "text",
    ["", "0", "Qm", "12D3Koo", ED25519_ID + "x", ED25519_ID[:-1], ED25519_CID.upper(), "bafz", "bafkqaaa", "l" * 52,
     "1" * 128, "z" * 5000, "ü"],
)  # fmt: skip
def test_texts_that_name_no_peer(text: str) -> None:
    with pytest.raises(InvalidPeerId):
        PeerId.parse(text)


@pytest.mark.parametrize(
    ("text", "raw"),
    [
        ("/ip4/10.0.0.1/tcp/5001", "040a000001061389"),
        ("/ip6/fd00::1/tcp/1", "29fd000000000000000000000000000001060001"),
        ("/dns/peili.example/tcp/80", "350d7065696c692e6578616d706c65060050"),
        ("/dns4/a/tcp/80", "360161060050"),
        ("/dns6/a/tcp/80", "370161060050"),
        (f"/p2p/{ED25519_ID}", "a50326" + PeerId.parse(ED25519_ID).to_bytes().hex()),
        ("/ip4/10.0.0.1", "040a000001"),
        ("/tcp/0", "060000"),
    ],
)
def test_multiaddrs_as_text_and_bytes(text: str, raw: str) -> None:
    address = Multiaddr.parse(text)
    assert address.to_bytes().hex() == raw
    assert Multiaddr.parse(bytes.fromhex(raw)) == address
    assert str(address) == text


def test_parts_of_a_multiaddr() -> None:
    address = Multiaddr.parse(f"/ip6zone/eth0/ip6/FE80:0::1/tcp/5001/ipfs/{ED25519_ID}/")
    assert (address.host, address.port, address.peer_id) == ("fe80::1", 5001, PeerId.parse(ED25519_ID))
    assert Multiaddr.of("fe80::1%eth0", 5001, address.peer_id) == address
    assert str(Multiaddr.of("::ffff:10.0.0.1", 1)) == "/ip4/10.0.0.1/tcp/1"
    assert str(Multiaddr.of("node-1.example", 1)) == "/dns/node-1.example/tcp/1"


@pytest.mark.parametrize(
    "text",
    ["", "/", "//", "ip4/1.2.3.4", "/ip4", "/ip4/", "/ip4/1.2.3", "/ip4/1.2.3.4/tcp", "/ip4/1.2.3.4/tcp/",
     "/ip4/1.2.3.4/tcp/65536", "/ip4/1.2.3.4/tcp/-1", "/ip4/1.2.3.4/tcp/٣", "/ip4/1.2.3.4/udp/1/quic-v1",
     "/ip4/1.2.3.4/tcp/1/ws", "/ip4/1.2.3.4/tcp/1/tcp/2", "/tcp/1/ip4/1.2.3.4", "/ip4/1.2.3.4/ip4/1.2.3.4",
     "/ip4/::1", "/ip6/1.2.3.4", "/ip6zone/eth0", "/dns/a b", "/dns//tcp/1", "/p2p/x", "/p2p/x/tcp/1",
     f"/p2p/{ED25519_ID}/p2p/{ED25519_ID}", "/dns/" + "a" * 254, "/ip4/1.2.3.4" * 500, "/unix/tmp"],
)  # fmt: skip
def test_texts_that_are_no_multiaddr(text: str) -> None:
    with pytest.raises(InvalidMultiaddr):
        Multiaddr.parse(text)


@pytest.mark.parametrize(
    "raw", ["", "04", "040a0000", "060013ff", "35ff", "3501", "3501ff", "a50300", "ff" * 12, "00"]
)
def test_bytes_that_are_no_multiaddr(raw: str) -> None:
    with pytest.raises(InvalidMultiaddr):
        Multiaddr.parse(bytes.fromhex(raw))


def test_an_identity_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "data" / "identity.pem"
    first = Identity.load_or_create(path)
    assert Identity.load_or_create(path).peer_id == first.peer_id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["identity.pem"]


def test_a_left_over_of_a_crash_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    (tmp_path / f".identity.pem.{os.getpid()}.new").write_bytes(b"half")
    assert Identity.load_or_create(path).peer_id == Identity.load_or_create(path).peer_id


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"x" * 10_000, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"],
)
def test_a_broken_identity_file_is_an_error_and_stays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.pem"
    path.write_bytes(content)
    with pytest.raises(IdentityError, match=r"identity\.pem.*remove it"):
        Identity.load_or_create(path)
    assert path.read_bytes() == content


def test_an_identity_file_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="cannot read"):
        Identity.load_or_create(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(IdentityError, match="cannot"):
        Identity.load_or_create(tmp_path / "file" / "identity.pem")
