"""The driver of one authenticated connection: a task that reads, a task that writes, a task per inbound stream."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import trio

from peili.libp2p.about import AboutPeer
from peili.libp2p.channel import Channel
from peili.libp2p.errors import BrokenConnection, StreamError
from peili.libp2p.identify import IDENTIFY_PUSH, Identify
from peili.libp2p.inbound import StreamHandler, serve
from peili.libp2p.keepalive import KeepAlive, Step
from peili.libp2p.line import Line
from peili.libp2p.peer_id import PeerId
from peili.libp2p.stream import Stream
from peili.libp2p.upgrade import Secured
from peili.libp2p.yamux import (
    GO_AWAY_NORMAL,
    GO_AWAY_PROTOCOL_ERROR,
    Data,
    Event,
    Finished,
    GoneAway,
    Opened,
    Reset,
    WindowGrown,
    Yamux,
    YamuxError,
)  # fmt: skip

CLOSE_TIMEOUT: Final = 1.0  # seconds for the last bytes to leave

_log = logging.getLogger(__name__)


class Keeper(Protocol):
    """What a connection needs of its host."""

    @property
    def handlers(self) -> Mapping[str, StreamHandler]:
        """Who takes inbound streams, by protocol."""
        ...

    def take_inbound_stream(self) -> bool:
        """Whether one more inbound stream may be open on this host; `drop_inbound_stream` gives it back."""
        ...

    def drop_inbound_stream(self) -> None:
        """An inbound stream is done."""
        ...

    def unread(self, change: int) -> None:
        """So many more (or, negative, fewer) bytes wait on this host to be read."""
        ...


class Connection:
    """An authenticated connection to a peer. `remote` is its IP address (no zone, no IPv4-mapped form) and port."""

    __slots__ = (
        "_about", "_closed", "_closing", "_keeper", "_leftover", "_line", "_nursery", "_outbox_ready",
        "_scope", "_streams", "_unread", "certificate", "draining", "keepalive", "last_used", "opened", "outbound",
        "peer_id", "reason", "remote", "yamux",
    )  # fmt: skip

    def __init__(
        self,
        stream: trio.SocketStream,
        secured: Secured,
        keeper: Keeper,
        *,
        remote: tuple[str, int],
        outbound: bool,
    ) -> None:
        self.certificate: Final = secured.certificate
        self.peer_id: Final[PeerId] = secured.certificate.peer_id
        self.remote: Final = remote
        self.outbound: Final = outbound
        self.opened: Final = trio.current_time()
        self.last_used = self.opened
        self.reason = ""  # why it ended, for logs
        self.draining = False  # it takes no more streams
        self.yamux: Final = Yamux(client=outbound)
        self.keepalive: Final = KeepAlive(self.opened)
        self._keeper = keeper
        self._line = Line(stream, secured.tls)
        self._leftover = secured.leftover
        self._streams: dict[int, Channel] = {}
        self._unread = 0
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._outbox_ready = trio.Event()
        self._closing = False
        self._closed = trio.Event()
        self._about = AboutPeer(self.peer_id)

    # What users call

    @property
    def closed(self) -> bool:
        """Whether it has ended, or is about to."""
        return self._closed.is_set() or self._closing

    async def identify(self) -> Identify:
        """What the peer says of itself: waits for its first word; afterwards at once, current with its pushes.

        Raise StreamError where the peer does not identify itself, or the connection ended.
        """
        return await self._about.wait()

    async def open_stream(self, protocol: str) -> Stream:
        """A new stream. The protocol is proposed together with the first frame, so this waits for nothing.

        Raise StreamError where the connection is closed or has too many streams.
        """
        await trio.lowlevel.checkpoint()
        if self.closed or self.draining:
            raise StreamError(f"the connection is closed: {self.reason or 'the peer takes no more streams'}")
        stream_id = self.yamux.open_stream()
        if stream_id is None:
            raise StreamError("too many streams on this connection")
        return Stream(self, self._channel(stream_id), protocol, outbound=True)

    async def aclose(self) -> None:
        """Close the connection, within a bounded time."""
        self.end("closed by ourselves")
        with trio.move_on_after(CLOSE_TIMEOUT):
            await self.wait_closed()
        self._scope.cancel()
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, for any reason."""
        await self._closed.wait()

    # What the host calls

    async def run(self) -> None:
        """Drive the connection until it ends; never raises for what the peer does."""
        try:
            with self._scope:
                async with trio.open_nursery() as self._nursery:
                    self._nursery.start_soon(self._guarded, self._read, CLOSE_TIMEOUT)
                    self._nursery.start_soon(self._guarded, self._write, 0)
                    self._nursery.start_soon(self._about.ask, self)
        except Exception:  # noqa: BLE001 - a mistake of ours must cost one connection and not the node
            _log.exception("the connection with %s at %s failed", self.peer_id, self.remote)
            self.reason = self.reason or "an internal error"
        finally:
            self._nursery = None
            await self._finish()

    def end(self, reason: str) -> None:
        """Begin to close: what is in the outbox still goes out."""
        if not self.closed:
            self.reason, self._closing = reason, True
            self.yamux.go_away(GO_AWAY_NORMAL)
            self.wake_writer()

    def drop(self, reason: str) -> None:
        """Close at once."""
        self.reason = self.reason or reason
        self._closing = True
        self._scope.cancel()

    def drain(self) -> None:
        """Take no more streams, and tell the peer; those that are open go on."""
        self.draining = True
        self.yamux.go_away(GO_AWAY_NORMAL)
        self.wake_writer()

    def look_after(self, now: float, *, suspect: bool = False) -> None:
        """Ping a silent peer, give up on a dead one; called at intervals."""
        match self.keepalive.suspect(now) if suspect else self.keepalive.step(now):
            case Step.PING:
                self.yamux.ping(int(now) & 0xFFFFFFFF)
                self.wake_writer()
            case Step.GIVE_UP:
                self.drop("the peer gave no sign of life")
            case Step.WAIT:
                pass

    @property
    def unread_bytes(self) -> int:
        """Bytes of the peer that nobody has read yet."""
        return self._unread

    # What streams call

    def wake_writer(self) -> None:
        """There may be something to send: at once, as far as the socket takes it, and by the writer beyond that."""
        if not (self._closing or self.yamux.has_output or self._line.has_output):
            return
        if self._nursery is None or self._closing or self._outbox_ready.is_set() or not self._line.is_free:
            self._outbox_ready.set()
            return
        try:
            if not self._line.send_now(self.yamux.take_output()):
                self._outbox_ready.set()
        except BrokenConnection as error:
            self.drop(str(error))

    def unread(self, change: int) -> None:
        """So many more (or fewer) bytes wait to be read."""
        self._unread += change
        self._keeper.unread(change)

    def forget(self, stream_id: int) -> None:
        """The stream takes no more events."""
        self._streams.pop(stream_id, None)

    # Tasks

    async def _guarded(self, task: Callable[[], Awaitable[None]], linger: float) -> None:
        """Run a task; the connection ends with it, and what the peer did ends here.

        For so many seconds the writer may still send what explains the end to the peer.
        """
        try:
            await task()
        except BrokenConnection as error:
            self.reason = self.reason or str(error)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.reason = self.reason or "the peer went away"
        self._closing = True
        self.wake_writer()
        await trio.sleep(linger)
        self._scope.cancel()

    async def _read(self) -> None:
        plaintext = self._leftover or self._line.decrypt_rest()
        self._leftover = b""
        while True:
            try:
                if plaintext:
                    self._dispatch(self.yamux.receive(plaintext))
            except YamuxError:
                self.yamux.go_away(GO_AWAY_PROTOCOL_ERROR)
                raise
            finally:
                self.wake_writer()
            plaintext = await self._line.receive()
            self.keepalive.heard(trio.current_time())

    async def _write(self) -> None:
        while True:
            await self._outbox_ready.wait()
            self._outbox_ready = trio.Event()
            while self.yamux.has_output or self._line.has_output:
                self.keepalive.write_started(trio.current_time())
                await self._line.send(self.yamux.take_output())
                self.keepalive.write_ended()
            for channel in tuple(self._streams.values()):
                channel.on_room()
            if self._closing:
                return

    async def _finish(self) -> None:
        """The end of everything: streams learn of it, the peer gets the last words, memory is freed."""
        self._closing = True
        self.reason = self.reason or "the host was stopped"
        for channel in tuple(self._streams.values()):
            channel.on_broken(f"the connection ended: {self.reason}")
        self._about.give_up(f"the connection ended: {self.reason}")
        try:
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                self.yamux.go_away(GO_AWAY_NORMAL)
                await self._line.say_goodbye(self.yamux.take_output())
        except (BrokenConnection, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer is gone already
        finally:
            with trio.CancelScope(shield=True):
                await self._line.aclose()
            self._closed.set()

    # Events

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Opened):
                self._on_opened(event.stream_id)
                continue
            if isinstance(event, GoneAway):
                self.draining = True
                continue
            channel = self._streams.get(event.stream_id)
            if channel is None:
                continue
            match event:
                case Data():
                    self.last_used = trio.current_time()
                    channel.on_data(event.data)
                case Finished():
                    channel.on_end()
                case Reset():
                    channel.on_broken("the peer reset the stream")
                case WindowGrown():
                    channel.on_room()

    def _on_opened(self, stream_id: int) -> None:
        if self._nursery is None or not self._keeper.take_inbound_stream():
            self.yamux.reset(stream_id)
            return
        self._nursery.start_soon(self._serve, self._channel(stream_id))

    async def _serve(self, channel: Channel) -> None:
        try:
            await serve(self, channel, {**self._keeper.handlers, IDENTIFY_PUSH: self._about.take_push})
        finally:
            self._keeper.drop_inbound_stream()

    def _channel(self, stream_id: int) -> Channel:
        channel = Channel(self, stream_id)
        self._streams[stream_id] = channel
        return channel
