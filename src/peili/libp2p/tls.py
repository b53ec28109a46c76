"""TLS 1.3 as libp2p uses it (libp2p/specs, tls), on memory: ciphertext in, plaintext and ciphertext out, no socket.

OpenSSL is told to accept every certificate, because it cannot judge a self-signed one; so nothing that a channel
yields may be trusted before `peer_certificate` was given to `verify_certificate`.
"""

from __future__ import annotations

from typing import Final

from OpenSSL import SSL, crypto

from peili.libp2p.certificate import HostCertificate
from peili.libp2p.errors import BrokenConnection

ALPN: Final = b"libp2p"
MAX_HANDSHAKE: Final = 64 * 1024  # bytes taken from a peer that has not proved who it is
MAX_UNSENT: Final = 64 * 1024  # bytes of answers to key updates that wait for the writer
_CHUNK: Final = 16 * 1024  # one record


class TlsError(BrokenConnection):
    """The handshake or a record failed; `take_output` may still have an alert for the peer."""


class TlsClosed(TlsError):
    """The peer said that nothing more will come."""


class TlsContexts:
    """What all channels of one host share: its certificate, and libp2p's demands on TLS."""

    def __init__(self, own: HostCertificate) -> None:
        self._client = _context(own)
        self._client.set_alpn_protos([ALPN])
        self._server = _context(own)
        self._server.set_alpn_select_callback(_select_alpn)

    def client(self) -> TlsChannel:
        """A channel of the side that dials."""
        connection = SSL.Connection(self._client, None)
        connection.set_connect_state()
        return TlsChannel(connection, server=False)

    def server(self) -> TlsChannel:
        """A channel of the side that was dialled; it demands a certificate."""
        connection = SSL.Connection(self._server, None)
        connection.set_accept_state()
        return TlsChannel(connection, server=True)


def _context(own: HostCertificate) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.use_certificate(own.certificate)
    context.use_privatekey(own.key)
    # A resumed session would have no certificate to judge, and a ticket is of no use without one.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    # 34 KB less for each idle connection.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _accept_every_certificate)
    return context


def _accept_every_certificate(
    connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int
) -> bool:
    return True


def _select_alpn(connection: SSL.Connection, offered: list[bytes]) -> bytes | SSL._NoOverlappingProtocols:
    return ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS


class TlsChannel:
    """One connection's TLS. Its owner must `close` it: the garbage collector sees none of its 43 KB."""

    __slots__ = ("_handshake_bytes", "_output", "_server", "_ssl")

    def __init__(self, connection: SSL.Connection, *, server: bool) -> None:
        self._ssl: SSL.Connection | None = connection
        self._server = server
        self._output = bytearray()
        self._handshake_bytes = 0

    def handshake(self, data: bytes) -> bool:
        """Take the peer's bytes (none at the start of the client's side); whether the handshake is complete."""
        connection = self._connection()
        self._handshake_bytes += len(data)
        if self._handshake_bytes > MAX_HANDSHAKE:
            raise TlsError(f"a handshake of more than {MAX_HANDSHAKE} bytes")
        try:
            if data:
                connection.bio_write(data)
            connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise TlsError(f"the TLS handshake failed: {_reason(error)}") from error
        finally:
            self._drain(connection)
        return True

    def peer_certificate(self) -> bytes:
        """The one certificate of the peer, in DER, after the handshake. Raise TlsError where it is not that."""
        connection = self._connection()
        if connection.get_protocol_version_name() != "TLSv1.3":
            raise TlsError(f"the peer speaks {connection.get_protocol_version_name()}, not TLS 1.3")
        if connection.get_alpn_proto_negotiated() != ALPN:
            raise TlsError("the peer did not agree on libp2p by ALPN")
        certificate = connection.get_peer_certificate()
        if certificate is None:
            raise TlsError("the peer has no certificate")
        # The chain has the peer's own certificate on the client's side, and has it not on the server's.
        others = len(connection.get_peer_cert_chain() or ()) - (0 if self._server else 1)
        if others > 0:
            raise TlsError("the peer sent more than one certificate")
        return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)

    def encrypt(self, plaintext: bytes) -> None:
        """Turn plaintext into ciphertext, for `take_output`."""
        connection = self._connection()
        try:
            connection.sendall(plaintext)
        except SSL.Error as error:
            raise TlsError(f"cannot encrypt: {_reason(error)}") from error
        finally:
            self._drain(connection)

    def decrypt(self, data: bytes) -> bytes:
        """Plaintext of the ciphertext so far. Raise TlsClosed after the peer's last word, TlsError on bad records.

        Reading can produce output (answers to key updates); it is bounded.
        """
        connection = self._connection()
        plaintext = bytearray()
        try:
            if data:
                connection.bio_write(data)
            while True:
                plaintext += connection.recv(_CHUNK)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError as error:
            if not plaintext:
                raise TlsClosed("the peer closed the connection") from error
        except SSL.Error as error:
            raise TlsError(f"a bad TLS record: {_reason(error)}") from error
        finally:
            self._drain(connection)
        if len(self._output) > MAX_UNSENT:
            raise TlsError("the peer asks for more answers than it reads")
        return bytes(plaintext)

    def take_output(self) -> bytes:
        """Ciphertext to send now, in order; also after an error."""
        output, self._output = bytes(self._output), bytearray()
        return output

    @property
    def has_output(self) -> bool:
        """Whether `take_output` has something."""
        return bool(self._output)

    def say_goodbye(self) -> None:
        """Add close_notify to the output."""
        connection = self._connection()
        try:
            connection.shutdown()
        except SSL.Error as error:
            raise TlsError(f"cannot close: {_reason(error)}") from error
        finally:
            self._drain(connection)

    def close(self) -> None:
        """Free OpenSSL's memory; the channel is of no use afterwards."""
        self._ssl = None
        self._output = bytearray()

    def _connection(self) -> SSL.Connection:
        if self._ssl is None:
            raise TlsError("the channel is closed")
        return self._ssl

    def _drain(self, connection: SSL.Connection) -> None:
        try:
            while True:
                chunk = connection.bio_read(_CHUNK)
                self._output += chunk
                if len(chunk) < _CHUNK:
                    return
        except SSL.WantReadError:
            return


def _reason(error: SSL.Error) -> str:
    """OpenSSL's own words: its errors are lists of (library, function, reason)."""
    if error.args and isinstance(error.args[0], list) and error.args[0]:
        return str(error.args[0][0][-1])
    return str(error) or type(error).__name__
