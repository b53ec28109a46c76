"""Answering peers: inbound streams of the Kademlia protocol and of our own."""

from __future__ import annotations

from collections.abc import Callable, Collection

import trio

from peili.kademlia.contact import Contact
from peili.kademlia.keyspace import digest_of, position
from peili.kademlia.message import MAX_REQUEST_SIZE, InvalidMessage, Message, MessageType, decode, encode, trim
from peili.kademlia.own_message import MAX_SIZE, Ack, Goodbye, OwnMessage, Provide, Withdraw, decode_own, encode_own
from peili.libp2p.host import Stream, StreamError
from peili.routing.kademlia.exchange import answer_requests
from peili.routing.kademlia.knowledge import Knowledge
from peili.routing.kademlia.links import Link, Links

Answer = Callable[[Link, bytes], bytes | None]


class Server:
    """Answers requests from what this node knows. Nothing a peer sends costs more than its own stream."""

    def __init__(
        self, knowledge: Knowledge, links: Links, *, own_contact: Callable[[], Contact], provided: Collection[bytes]
    ) -> None:
        """`own_contact` is this node as a provider; `provided` the digests of the keys that it has."""
        self._knowledge = knowledge
        self._links = links
        self._own_contact = own_contact
        self._provided = provided
        self.on_goodbye: Callable[[bytes], None] = lambda peer_id: None
        self.on_request: Callable[[Link], None] = lambda link: None  # a peer asked something that we understood

    async def serve_kad(self, stream: Stream) -> None:
        """Handle one inbound stream of `<prefix>/kad/1.0.0`."""
        await self._serve(stream, MAX_REQUEST_SIZE, self.answer_kad)

    async def serve_own(self, stream: Stream) -> None:
        """Handle one inbound stream of our own protocol."""
        await self._serve(stream, MAX_SIZE, self.answer_own)

    async def _serve(self, stream: Stream, limit: int, answer: Answer) -> None:
        link = self._links.of(stream.connection)

        def understood(request: bytes) -> bytes | None:
            body = answer(link, request)
            self.on_request(link)
            return body

        try:
            await answer_requests(stream, limit, link.known, understood)
        except (StreamError, InvalidMessage):
            await stream.reset()

    def answer_kad(self, link: Link, body: bytes) -> bytes | None:
        """The answer to a Kademlia request, or None where it has none; raise InvalidMessage."""
        request = decode(body)
        match request.type:
            case MessageType.FIND_NODE:
                return encode(Message(request.type, closer_peers=self._closer(link, request.key)))
            case MessageType.GET_PROVIDERS:
                providers = self._providers(request.key)
                closer = self._closer(link, request.key)
                return encode(Message(request.type, request.key, closer, providers))
            case MessageType.PING:
                return encode(Message(request.type))
            case MessageType.ADD_PROVIDER:
                self._add_provider(link, request)
                return None

    def _closer(self, link: Link, key: bytes) -> tuple[Contact, ...]:
        k = self._knowledge.settings.k
        closest = self._knowledge.table.closest(position(key), k + 1)
        return tuple(trim(contact) for contact in closest if contact.id != link.id)[:k]

    def _providers(self, key: bytes) -> tuple[Contact, ...]:
        digest = digest_of(key)
        if digest is None:
            return ()
        now, random = trio.current_time(), self._knowledge.random
        found = self._knowledge.records.get(digest, now, random)
        if digest in self._provided:
            found.append(self._own_contact())
        return tuple(map(trim, found))

    def _add_provider(self, link: Link, request: Message) -> None:
        """Kept for the sender itself only, and with what its connection and its identify say, not the message."""
        digest = digest_of(request.key)
        named = {contact.id for contact in request.provider_peers}
        if digest is not None and link.id in named:
            self._add(link, (digest,), self._knowledge.settings.record_lifetime)

    def answer_own(self, link: Link, body: bytes) -> bytes | None:
        """The answer to a message of our own protocol; raise InvalidMessage."""
        return encode_own(Ack(self._take(link, decode_own(body))))

    def _take(self, link: Link, message: OwnMessage) -> int:
        match message:
            case Provide(keys, ttl):
                return self._add(link, keys, ttl)
            case Withdraw(keys):
                return self._knowledge.records.withdraw(link.id, keys)
            case Goodbye():
                self._knowledge.left(link.id)
                self.on_goodbye(link.id)
                return 0
            case Ack():
                raise InvalidMessage("an Ack is not a request")

    def _add(self, link: Link, keys: tuple[bytes, ...], ttl: float) -> int:
        contact = self._knowledge.provider_contact(link)
        if contact is None or link.connection.closed:
            return 0
        return self._knowledge.records.add(contact, keys, trio.current_time(), ttl)
