"""The one check of TLS: a table of certificates that must be refused, and handshakes that must fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from peili.libp2p.certificate import (
    LIBP2P_EXTENSION,
    SIGNATURE_PREFIX,
    CertificateError,
    ExtraExtension,
    HostCertificate,
    verify_certificate,
)  # fmt: skip
from peili.libp2p.identity import Identity
from peili.libp2p.peer_id import PeerId
from peili.libp2p.tls import TlsChannel, TlsContexts, TlsError

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | Ed25519PrivateKey
HOST_KEY = Ed25519PrivateKey.generate()
PUBLIC = HOST_KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def p256() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def spki_of(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def signed_key(public: bytes, signature: bytes) -> bytes:
    protobuf = bytes.fromhex("08011220") + public
    inner = b"\x04" + bytes([len(protobuf)]) + protobuf + b"\x04" + bytes([len(signature)]) + signature
    return b"\x30" + bytes([len(inner)]) + inner


@dataclass
class Recipe:
    """How to make a certificate; the defaults make a good one."""

    key: Key = field(default_factory=p256)
    signer: Key | None = None
    start: datetime = NOW - DAY
    end: datetime = NOW + DAY
    issuer: str = "libp2p"
    extension: Callable[[Key], bytes | None] = lambda key: signed_key(
        PUBLIC, HOST_KEY.sign(SIGNATURE_PREFIX + spki_of(key))
    )
    critical: bool = False
    extra: tuple[tuple[str, bool], ...] = ()

    def build(self) -> x509.Certificate:
        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        builder = x509.CertificateBuilder(
            name(self.issuer), name("libp2p"), self.key.public_key(), 7, self.start, self.end
        )
        content = self.extension(self.key)
        if content is not None:
            builder = builder.add_extension(x509.UnrecognizedExtension(LIBP2P_EXTENSION, content), self.critical)
        for oid, critical in self.extra:
            value = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), b"value")
            builder = builder.add_extension(value, critical)
        signer = self.signer or self.key
        return builder.sign(signer, None if isinstance(signer, Ed25519PrivateKey) else hashes.SHA256())


def judge(recipe: Recipe) -> PeerId:
    return verify_certificate(recipe.build().public_bytes(Encoding.DER), NOW).peer_id


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(key=Ed25519PrivateKey.generate()),
        Recipe(critical=True),
        Recipe(extra=(("1.2.3.4", False),)),
    ],
    ids=["p256", "ed25519", "critical extension of libp2p", "unknown extension"],
)
def test_good_certificates_prove_the_host_key(recipe: Recipe) -> None:
    assert judge(recipe) == PeerId.of_public_key(PUBLIC)


REPLAYED = signed_key(PUBLIC, HOST_KEY.sign(SIGNATURE_PREFIX + spki_of(p256())))
BAD = {
    "expired": (Recipe(end=NOW - timedelta(seconds=1)), "expired"),
    "not yet valid": (Recipe(start=NOW + timedelta(seconds=1)), "not valid yet"),
    "no extension": (Recipe(extension=lambda key: None), "no libp2p extension"),
    "empty extension": (Recipe(extension=lambda key: b""), "no Ed25519 key"),
    "garbage in the extension": (Recipe(extension=lambda key: b"\x30\x82garbage" * 13), "no Ed25519 key"),
    "short extension": (Recipe(extension=lambda key: REPLAYED[:-1]), "no Ed25519 key"),
    "long extension": (Recipe(extension=lambda key: REPLAYED + b"\0"), "no Ed25519 key"),
    "short signature": (Recipe(extension=lambda key: signed_key(PUBLIC, b"s" * 63)), "no Ed25519 key"),
    "short key": (Recipe(extension=lambda key: signed_key(PUBLIC[:-1], b"s" * 64)), "no Ed25519 key"),
    "wrong signature": (Recipe(extension=lambda key: signed_key(PUBLIC, b"s" * 64)), "did not sign"),
    "replayed signature": (Recipe(extension=lambda key: REPLAYED), "did not sign"),
    "signature without the prefix": (
        Recipe(extension=lambda key: signed_key(PUBLIC, HOST_KEY.sign(spki_of(key)))),
        "did not sign",
    ),
    "signature of another host key": (
        Recipe(
            extension=lambda key: signed_key(
                PUBLIC, Ed25519PrivateKey.generate().sign(SIGNATURE_PREFIX + spki_of(key))
            )
        ),
        "did not sign",
    ),
    "unknown critical extension": (Recipe(extra=(("1.2.3.4", True),)), "unknown critical extension"),
    "signed by another key": (Recipe(signer=p256()), "not signed by itself"),
    "another issuer": (Recipe(issuer="somebody"), "not signed by itself"),
    "an RSA key": (Recipe(key=rsa.generate_private_key(65537, 2048)), "neither P-256 nor Ed25519"),
    "another curve": (Recipe(key=ec.generate_private_key(ec.SECP384R1())), "secp384r1"),
}


@pytest.mark.parametrize(("recipe", "reason"), BAD.values(), ids=BAD.keys())
def test_bad_certificates_are_refused_with_their_reason(recipe: Recipe, reason: str) -> None:
    with pytest.raises(CertificateError, match=reason):
        judge(recipe)


@pytest.mark.parametrize("der", [b"", b"\x30", b"\x30\x03\x02\x01\x01", b"\0" * 20_000])
def test_what_is_no_certificate(der: bytes) -> None:
    with pytest.raises(CertificateError):
        verify_certificate(der, NOW)


def test_our_own_certificate_is_good_and_carries_what_was_added() -> None:
    identity = Identity.generate()
    own = identity.certificate(lambda public_key: [ExtraExtension("1.3.6.1.4.1.53594.99", b"a proof")])
    verified = verify_certificate(own.certificate.public_bytes(Encoding.DER), datetime.now(UTC))
    assert verified.peer_id == identity.peer_id
    assert verified.extensions == {"1.3.6.1.4.1.53594.99": b"a proof"}


# Handshakes


def shake(client: TlsChannel, server: TlsChannel) -> None:
    """Carry bytes until both sides are done; raise what a side raises."""
    done = [client.handshake(b""), False]
    for _ in range(10):
        to_server, to_client = client.take_output(), server.take_output()
        if to_server:
            done[1] = server.handshake(to_server) or done[1]
        if to_client:
            done[0] = client.handshake(to_client) or done[0]
        if all(done):
            return
    raise AssertionError("the handshake does not end")


def contexts() -> TlsContexts:
    return TlsContexts(Identity.generate().certificate())


def foreign(
    *, server: bool, alpn: bytes | None = b"libp2p", maximum: int | None = None, chain: bool = False
) -> TlsChannel:
    """A channel that is not as libp2p wants it."""
    context = SSL.Context(SSL.TLS_METHOD)
    own: HostCertificate = Identity.generate().certificate()
    context.use_certificate(own.certificate)
    context.use_privatekey(own.key)
    if chain:
        context.add_extra_chain_cert(Identity.generate().certificate().certificate)
    if maximum is not None:
        context.set_max_proto_version(maximum)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *args: True)
    return wrapped(context, server=server, alpn=alpn)


def wrapped(context: SSL.Context, *, server: bool, alpn: bytes | None = b"libp2p") -> TlsChannel:
    if alpn is not None and server:
        context.set_alpn_select_callback(lambda connection, offered: alpn)
    elif alpn is not None:
        context.set_alpn_protos([alpn])
    connection = SSL.Connection(context, None)
    if server:
        connection.set_accept_state()
    else:
        connection.set_connect_state()
    return TlsChannel(connection, server=server)


def test_two_channels_prove_who_they_are_and_carry_data() -> None:
    one, two = Identity.generate(), Identity.generate()
    client, server = TlsContexts(one.certificate()).client(), TlsContexts(two.certificate()).server()
    shake(client, server)
    assert verify_certificate(client.peer_certificate(), datetime.now(UTC)).peer_id == two.peer_id
    assert verify_certificate(server.peer_certificate(), datetime.now(UTC)).peer_id == one.peer_id
    client.encrypt(b"x" * 100_000)
    assert server.decrypt(client.take_output()) == b"x" * 100_000


@pytest.mark.parametrize("we_serve", [False, True])
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"alpn": None}, "ALPN"),
        ({"alpn": b"h2"}, "ALPN|alpn|failed"),
        ({"chain": True}, "more than one certificate"),
    ],
    ids=["no ALPN", "another ALPN", "two certificates"],
)
def test_peers_that_are_not_as_libp2p_wants_them(we_serve: bool, options: dict[str, object], reason: str) -> None:
    theirs = foreign(server=not we_serve, **options)  # type: ignore[arg-type]
    ours = contexts().server() if we_serve else contexts().client()

    def meet() -> None:
        shake(*((theirs, ours) if we_serve else (ours, theirs)))
        ours.peer_certificate()

    with pytest.raises(TlsError, match=reason):
        meet()


@pytest.mark.parametrize("we_serve", [False, True])
def test_tls_1_2_is_refused_with_an_alert(we_serve: bool) -> None:
    theirs = foreign(server=not we_serve, maximum=SSL.TLS1_2_VERSION)
    ours = contexts().server() if we_serve else contexts().client()
    with pytest.raises(TlsError, match="failed"):
        shake(*((theirs, ours) if we_serve else (ours, theirs)))
    assert ours.take_output() or theirs.take_output()


def test_a_client_without_a_certificate_is_refused() -> None:
    context = SSL.Context(SSL.TLS_METHOD)
    server = contexts().server()
    client = wrapped(context, server=False)

    def meet() -> None:
        shake(client, server)  # the client believes that it is done
        server.handshake(client.take_output())

    with pytest.raises(TlsError, match="failed"):
        meet()


def test_an_endless_handshake_is_cut_off() -> None:
    server = contexts().server()
    # A ClientHello that announces 128 KiB and comes in small records, so that OpenSSL waits for more.
    record = b"\x16\x03\x01\x04\x00"
    server.handshake(record + b"\x01\x01\xff\xff" + bytes(1020))

    def go_on() -> None:
        for _ in range(1000):
            server.handshake(record + bytes(1024))

    with pytest.raises(TlsError, match="more than 65536 bytes"):
        go_on()


def test_a_bit_flip_in_a_record_is_an_error() -> None:
    client, server = contexts().client(), contexts().server()
    shake(client, server)
    client.encrypt(b"hello")
    record = bytearray(client.take_output())
    record[-1] ^= 1
    with pytest.raises(TlsError, match="bad TLS record"):
        server.decrypt(bytes(record))


def test_a_closed_channel_is_an_error_and_no_crash() -> None:
    client = contexts().client()
    client.close()
    with pytest.raises(TlsError, match="closed"):
        client.encrypt(b"x")
    with pytest.raises(TlsError, match="closed"):
        client.decrypt(b"x")
