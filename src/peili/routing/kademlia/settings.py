"""What a Kademlia router is told when it is made. Times in seconds."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from peili.follow.settings import FollowSettings
from peili.kademlia.lookup import LookupSettings
from peili.kademlia.message import kad_protocol
from peili.kademlia.own_message import own_protocol
from peili.kademlia.records import EXPIRATION_INTERVAL
from peili.kademlia.republish import REPUBLISH_INTERVAL
from peili.kademlia.table import K
from peili.libp2p.host import HostLimits
from peili.routing.bootstrap import Source

IDENTITY_FILE: Final = "identity.pem"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class KademliaSettings:
    """Values only; daemon.py makes them from the settings."""

    listen_host: str  # an IP address; "0.0.0.0", or "::" for both families
    listen_port: int  # 0 in tests: any free one
    advertise: tuple[str, ...] = ()  # our IP addresses as peers reach them; empty: found out
    prefix: str = "/peili"  # of the protocol ids; nodes with another prefix do not meet
    registry_port: int = 0  # where this node serves peers; 0: it provides nothing
    zone: str = ""
    agent: str = "peili"
    identity_directory: Path | None = None  # None: a new identity in each run
    bootstrap: tuple[Source, ...] = ()
    k: int = K
    lookup: LookupSettings = field(default_factory=LookupSettings)
    republish_interval: float = REPUBLISH_INTERVAL
    record_lifetime: float = EXPIRATION_INTERVAL
    bootstrap_interval: float = 60.0  # between rounds while there are peers, to heal splits
    bootstrap_backoff: float = 0.5  # the first pause while there is nobody; it doubles
    bootstrap_backoff_limit: float = 15.0
    limits: HostLimits = field(default_factory=HostLimits)  # of connections and streams
    follow: FollowSettings | None = None  # None: this node neither coordinates nor asks coordinators
    assume_registry_port: bool = False  # peers that name no registry port serve on ours, as Spegel takes it
    believe_records: bool = (
        False  # a provider that cannot be connected with is where its record says, as Spegel has it
    )
    peer_networks: tuple[Network, ...] = ()  # peers are dialled, and providers taken, only inside; empty: anywhere

    def is_peer_address(self, host: str) -> bool:
        """Whether a peer may be at this IP address."""
        address = ipaddress.ip_address(host)
        return not self.peer_networks or any(address in network for network in self.peer_networks)

    @property
    def kad_protocol(self) -> str:
        """The id of the Kademlia protocol."""
        return kad_protocol(self.prefix)

    @property
    def own_protocol(self) -> str:
        """The id of our own messages' protocol."""
        return own_protocol(self.prefix)
