"""Certificates of libp2p's TLS (libp2p/specs, tls): made here, and judged here, in one function.

The handshake itself accepts every certificate, so `verify_certificate` is the only check there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID

from peili.libp2p.errors import BrokenConnection
from peili.libp2p.peer_id import ED25519_KEY_LENGTH, ED25519_PUBLIC_KEY_PREFIX, PeerId

LIBP2P_EXTENSION: Final = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
SIGNATURE_PREFIX: Final = b"libp2p-tls-handshake:"
MAX_CERTIFICATE: Final = 16 * 1024  # bytes of DER
VALIDITY: Final = timedelta(days=100 * 365)
CLOCK_SKEW: Final = timedelta(days=1)  # our certificate is valid from so long ago, for peers whose clock is slow

# SignedKey ::= SEQUENCE { OCTET STRING of 36 bytes, OCTET STRING of 64 bytes }: with Ed25519, DER has one way
# to write it, so parsing is comparing.
_KEY_HEADER: Final = bytes((0x30, 106 - 2, 0x04, 36)) + ED25519_PUBLIC_KEY_PREFIX
_SIGNATURE_HEADER: Final = bytes((0x04, 64))
_SIGNED_KEY_LENGTH: Final = 106

# Critical extensions that say nothing against this use of a certificate.
_KNOWN_EXTENSIONS: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }
)


class CertificateError(BrokenConnection):
    """The peer's certificate proves no identity; the text says why."""


@dataclass(frozen=True, slots=True)
class ExtraExtension:
    """A non-critical extension beside libp2p's own, which other implementations ignore. `oid` is dotted decimal."""

    oid: str
    value: bytes


@dataclass(frozen=True, slots=True)
class HostCertificate:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class VerifiedCertificate:
    """What a good certificate proves: who the peer is; `extensions` are the ones we do not know, by dotted OID.

    `public_key` is the certificate's own (SubjectPublicKeyInfo, DER); the peer has proved to hold its private half.
    """

    peer_id: PeerId
    public_key: bytes
    extensions: Mapping[str, bytes]


ExtraExtensions = Callable[[bytes], Sequence[ExtraExtension]]  # for a certificate with this SubjectPublicKeyInfo


def no_extensions(public_key: bytes) -> Sequence[ExtraExtension]:
    """Nothing beside libp2p's own."""
    return ()


def make_certificate(host_key: Ed25519PrivateKey, extra: ExtraExtensions = no_extensions) -> HostCertificate:
    """A fresh self-signed P-256 certificate whose key this host key vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    public = host_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signed_key = _KEY_HEADER + public + _SIGNATURE_HEADER + host_key.sign(SIGNATURE_PREFIX + spki)
    # Nothing about this node belongs in the name: the identity is in the extension.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "libp2p")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.UnrecognizedExtension(LIBP2P_EXTENSION, signed_key), critical=False)
    )
    for extension in extra(spki):
        value = x509.UnrecognizedExtension(x509.ObjectIdentifier(extension.oid), extension.value)
        builder = builder.add_extension(value, critical=False)
    return HostCertificate(builder.sign(key, hashes.SHA256()), key)


def verify_certificate(der: bytes, now: datetime) -> VerifiedCertificate:
    """Judge a peer's certificate; `now` is aware of its time zone. Raise CertificateError with the reason."""
    if len(der) > MAX_CERTIFICATE:
        raise CertificateError(f"a certificate of {len(der)} bytes")
    try:
        return _verify(x509.load_der_x509_certificate(der), now)
    except CertificateError:
        raise
    except Exception as error:  # cryptography reads lazily, and which errors it then raises is not documented
        raise CertificateError(f"a certificate that cannot be read: {error}") from error


def _verify(certificate: x509.Certificate, now: datetime) -> VerifiedCertificate:
    if now < certificate.not_valid_before_utc:
        raise CertificateError("the certificate is not valid yet; compare the clocks of both nodes")
    if now > certificate.not_valid_after_utc:
        raise CertificateError("the certificate has expired; compare the clocks of both nodes")
    _check_self_signed(certificate)
    signed_key, extra = _sort_extensions(certificate)
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return VerifiedCertificate(_host_key(spki, signed_key), spki, extra)


def _check_self_signed(certificate: x509.Certificate) -> None:
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, ec.SECP256R1):
            raise CertificateError(f"a certificate with a key of the curve {key.curve.name}")
    elif not isinstance(key, Ed25519PublicKey):
        raise CertificateError("a certificate with a key that is neither P-256 nor Ed25519")
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CertificateError("the certificate is not signed by itself") from error


def _sort_extensions(certificate: x509.Certificate) -> tuple[bytes, dict[str, bytes]]:
    """libp2p's own extension, and the others that we do not know."""
    signed_key, extra = None, {}
    for extension in certificate.extensions:
        value = extension.value
        if extension.oid == LIBP2P_EXTENSION and isinstance(value, x509.UnrecognizedExtension):
            signed_key = value.value
        elif extension.oid in _KNOWN_EXTENSIONS:
            continue
        elif extension.critical:
            raise CertificateError(
                f"the certificate has the unknown critical extension {extension.oid.dotted_string}"
            )
        elif isinstance(value, x509.UnrecognizedExtension):
            extra[extension.oid.dotted_string] = value.value
    if signed_key is None:
        raise CertificateError("the certificate has no libp2p extension")
    return signed_key, extra


def _host_key(spki: bytes, signed_key: bytes) -> PeerId:
    """The id of the host key in the extension, which must have signed the certificate's key."""
    end = len(_KEY_HEADER) + ED25519_KEY_LENGTH
    public, signature = signed_key[len(_KEY_HEADER) : end], signed_key[end + len(_SIGNATURE_HEADER) :]
    if (
        len(signed_key) != _SIGNED_KEY_LENGTH
        or not signed_key.startswith(_KEY_HEADER)
        or not signed_key[end:].startswith(_SIGNATURE_HEADER)
    ):
        raise CertificateError("the libp2p extension holds no Ed25519 key with its signature")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, SIGNATURE_PREFIX + spki)
    except InvalidSignature as error:
        raise CertificateError("the host key did not sign the key of the certificate") from error
    return PeerId.of_public_key(public)
