"""The router that finds providers through Kademlia over libp2p: it joins peili.kademlia and peili.libp2p."""

from __future__ import annotations

from peili.routing.kademlia.node import KademliaRouter, Log
from peili.routing.kademlia.settings import KademliaSettings

__all__ = ["KademliaRouter", "KademliaSettings", "Log"]
