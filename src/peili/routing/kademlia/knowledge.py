"""What a router knows of the network: its table, the records it keeps, and how peers did."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import trio

from peili.kademlia.contact import Contact
from peili.kademlia.records import ProviderRecords
from peili.kademlia.table import RoutingTable
from peili.routing.kademlia.links import Link
from peili.routing.kademlia.settings import KademliaSettings


class Knowledge:
    """The pure core of one node, and the few steps that touch several parts of it."""

    def __init__(self, own_id: bytes, settings: KademliaSettings) -> None:
        self.own_id = own_id
        self.settings = settings
        self.random = Random()
        self.table = RoutingTable(own_id, settings.k)
        self.records = ProviderRecords(random=self.random)
        self.on_member: Callable[[Link], None] = lambda link: None  # a peer is new in the table, or is back
        self.on_lost: Callable[[bytes], None] = lambda peer_id: None  # a peer became suspect

    def heard(self, link: Link) -> None:
        """The peer answered a Kademlia request on this link."""
        if not link.speaks(self.settings.kad_protocol):
            return
        now = trio.current_time()
        # Not `is_suspect`, which forgives after a minute: a peer that was slow for longer has missed what it was
        # told meanwhile, and is to be told again.
        was_away = self.table.failed_last(link.id)
        self.records.heard(link.id)
        if self.table.heard(link.contact(), now) or was_away:
            self.on_member(link)

    def failed(self, peer_id: bytes) -> None:
        """An attempt at a peer failed, at an address that we know ourselves to be its own: suspect from now on."""
        now = trio.current_time()
        was_suspect = self.table.is_suspect(peer_id, now)
        self.records.suspect(peer_id)
        self.table.failed(peer_id, now)
        if not was_suspect:
            self.on_lost(peer_id)

    def left(self, peer_id: bytes) -> None:
        """The peer said goodbye."""
        self.records.goodbye(peer_id)
        self.table.remove(peer_id)

    def provider_contact(self, link: Link) -> Contact | None:
        """What is kept of a peer that provides something; None where nothing can be fetched from it."""
        contact = link.contact()
        if contact.registry_port or not self.settings.assume_registry_port:
            return contact if contact.registry_port else None
        return Contact(contact.id, contact.addresses, self.settings.registry_port, contact.zone)

    def best_known(self, contact: Contact) -> tuple[Contact, bool]:
        """The contact with the addresses that we know ourselves, and True; else as somebody named it, and False."""
        known = self.table.get(contact.id)
        return (known, True) if known is not None and known.addresses else (contact, False)
