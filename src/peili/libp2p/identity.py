"""This node's identity: an Ed25519 key, and the certificates that it vouches for (libp2p/specs, tls)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peili.libp2p.certificate import ExtraExtensions, HostCertificate, make_certificate, no_extensions
from peili.libp2p.errors import Libp2pError
from peili.libp2p.peer_id import PeerId

_MAX_FILE: Final = 4096  # bytes; the PEM of an Ed25519 key has about 120


class IdentityError(Libp2pError):
    """The identity file cannot be read, written or understood; the text says which and what to do."""


class Identity:
    """An Ed25519 key pair; the public half names this node."""

    __slots__ = ("_key", "peer_id")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.peer_id: Final = PeerId.of_public_key(raw)

    @classmethod
    def generate(cls) -> Identity:
        """A new identity that lives as long as the process."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """The identity kept in this file (PKCS #8, PEM); created with mode 0600 where there is none.

        Raise IdentityError where the file is broken, too open to read it, or cannot be written. A broken file is
        never replaced: the operator may have a copy of the key.
        """
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_FILE + 1)
        except FileNotFoundError:
            return cls._create(path)
        except OSError as error:
            raise IdentityError(f"cannot read the identity file {path}: {error.strerror}") from error
        return cls(_parse(path, content))

    @classmethod
    def _create(cls, path: Path) -> Identity:
        key = Ed25519PrivateKey.generate()
        content = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            created = _write_new(path, content)
        except OSError as error:
            raise IdentityError(f"cannot write the identity file {path}: {error.strerror}") from error
        # Somebody else created it between our look and our write: theirs counts.
        return cls(key) if created else cls.load_or_create(path)

    def certificate(self, extra: ExtraExtensions = no_extensions) -> HostCertificate:
        """A fresh self-signed P-256 certificate that this identity vouches for, with its private key."""
        return make_certificate(self._key, extra)


def _parse(path: Path, content: bytes) -> Ed25519PrivateKey:
    advice = "restore it from a copy, or remove it to get a new identity"
    if len(content) > _MAX_FILE:
        raise IdentityError(f"the identity file {path} is too large for a key; {advice}")
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"the identity file {path} holds no private key in PEM; {advice}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"the identity file {path} holds no Ed25519 key; {advice}")
    return key


def _write_new(path: Path, content: bytes) -> bool:
    """Write a file of mode 0600 that appears whole or not at all; False where there is one by now."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.link(temporary, path)  # fails where the name is taken, unlike rename
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True
