"""Membership in TLS: a MAC over the certificate's public key, in an extension of the certificate.

It cannot be replayed in another certificate, because the MAC is over the public key (SubjectPublicKeyInfo) whose
private key TLS makes the peer prove.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Final

# Under 2.25, the arc of UUIDs, which needs no registration; the number is "peil" in ASCII. A whole UUID would be
# more unique, but Go refuses a certificate with an arc of more than 31 bits, even in an extension that it ignores
# (crypto/x509, "malformed extension OID field").
EXTENSION_OID: Final = "2.25.1885694316"
MAC_LENGTH: Final = 32  # bytes: HMAC-SHA256
_OCTET_STRING: Final = bytes((0x04, MAC_LENGTH))  # DER, for those who look into extensions that they do not know


def extension_value(key: bytes, public_key: bytes) -> bytes:
    """The extension's value for a certificate with this public key, a SubjectPublicKeyInfo in DER."""
    return _OCTET_STRING + _mac(key, public_key)


def is_member(keys: Iterable[bytes], public_key: bytes, value: bytes | None) -> bool:
    """Whether one of the keys made this value; any bytes are a value. In constant time for values of one length."""
    if value is None or len(value) != len(_OCTET_STRING) + MAC_LENGTH:
        return False
    good = [hmac.compare_digest(extension_value(key, public_key), value) for key in keys]
    return any(good)


def _mac(key: bytes, public_key: bytes) -> bytes:
    return hmac.digest(key, public_key, "sha256")
