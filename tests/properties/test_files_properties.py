"""What an operator keeps in files, of any bytes: the identity, and the version of an OCI layout."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from peili.libp2p.identity import Identity, IdentityError
from peili.store.layout_files import check_layout
from peili.store.protocol import StoreError
from tests.properties.effort import examples

MODERATE = settings(deadline=None, max_examples=examples(200))


PLAIN = NoEncryption()


def pem(key: Ed25519PrivateKey | X25519PrivateKey, encryption: KeySerializationEncryption = PLAIN) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


GOOD = pem(Ed25519PrivateKey.generate())
KEYS = [
    GOOD,
    pem(X25519PrivateKey.generate()),
    pem(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"password")),
    generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, PLAIN),
    b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
]
# A key with some bytes replaced, or cut, or with more after it.
broken_keys = st.builds(
    lambda key, start, count, other: key[:start] + other + key[start + count :],
    st.sampled_from(KEYS),
    st.integers(0, 300),
    st.integers(0, 300),
    st.binary(max_size=40),
)
versions = st.none() | st.booleans() | st.integers() | st.text(max_size=50) | st.just("1.0.0")
documents = versions | st.dictionaries(st.sampled_from(["imageLayoutVersion", "a"]), versions)
BOMBS = [b"[" * 4000, b'{"a":' * 800, b"9" * 4096, b"\xff\xfe{}", b"\xef\xbb\xbf{}", b" " * 4097]


@MODERATE
@given(st.sampled_from(KEYS) | broken_keys | st.binary(max_size=200) | st.sampled_from(BOMBS))
def test_any_identity_file_is_a_key_or_refused_and_never_replaced(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "identity.pem"
        path.write_bytes(content)
        with suppress(IdentityError):
            identity = Identity.load_or_create(path)
            assert Identity.load_or_create(path).peer_id == identity.peer_id
        assert path.read_bytes() == content


@MODERATE
@given(documents.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60) | st.sampled_from(BOMBS))
def test_any_oci_layout_file_is_a_version_that_can_be_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "oci-layout").write_bytes(content)
        with suppress(StoreError):
            check_layout(directory)
            assert json.loads(content)["imageLayoutVersion"].startswith("1.")
