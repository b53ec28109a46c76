"""The list of what reads bytes or text from outside, and that each of it has a property test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import peili

HERE, SOURCE = Path(__file__).parent, Path(peili.__file__).parent
PARSERS = {
    "HTTP, as server": ("http.connection", "Connection"),
    "HTTP, as client": ("http.client", "Client"),
    "multistream": ("libp2p.multistream", "Responder"),
    "varints": ("libp2p", "varint"),
    "peer ids": ("libp2p.peer_id", "PeerId"),
    "identity file": ("libp2p.identity", "IdentityError"),
    "TLS certificates": ("libp2p.certificate", "verify_certificate"),
    "TLS records": ("libp2p.tls", "TlsContexts"),
    "yamux": ("libp2p.yamux", "Yamux"),
    "protobuf": ("libp2p.protobuf", ""),
    "identify": ("libp2p.identify", ""),
    "multiaddr": ("libp2p.multiaddr", "Multiaddr"),
    "Kademlia messages": ("kademlia.message", "decode"),
    "our own messages": ("kademlia.own_message", "decode_own"),
    "lookups": ("kademlia.lookup", "Lookup"),
    "provider records": ("kademlia.records", "ProviderRecords"),
    "routing table": ("kademlia.table", ""),
    "follow messages": ("follow.codec", "decode_ask"),
    "coordinator": ("follow.coordinator", "Coordinator"),
    "digests": ("oci.digest", "Digest"),
    "references": ("oci.reference", "Reference"),
    "targets": ("oci.distribution", "parse_target"),
    "ranges": ("oci.ranges", "parse_range"),
    "manifests": ("store.manifests", "parse_manifest"),
    "layout index": ("store.manifests", "parse_layout_index"),
    "oci-layout file": ("store.layout_files", "check_layout"),
    "inotify": ("store.inotify", ""),
    "names of ingests": ("store.growing", ""),
    "store index": ("store.index", ""),
    "gRPC's HTTP/2": ("containerd.grpc_call", "GrpcExchange"),
    "containerd's answers": ("store.containerd.content", ""),
    "hosts.toml": ("containerd.toml_statements", ""),
    "merged hosts.toml": ("containerd.hosts_merge", ""),
    "containerd's configuration": ("containerd.plugin_settings", "read_plugin_settings"),
    "bootstrap": ("routing.bootstrap", "parse_listing"),
    "bootstrap over HTTP": ("routing", "fetch"),
    "secrets": ("members.secrets", ""),
    "headers of members": ("members.request_mac", ""),
    "extensions of members": ("members.certificate_mac", ""),
    "settings": ("", "settings"),
    "credentials": ("registry.credentials", "Credentials"),
    "races": ("mirror.race", "Race"),
    "stalls": ("http.stall", "StallWatch"),
    "whole endpoints": ("node", "Node"),
}


def imported_by_properties() -> set[tuple[str, str]]:
    """(module below peili, name) of all that property tests import, and (module, "") for each module."""
    found: set[tuple[str, str]] = set()
    for path in HERE.glob("test_*.py"):
        text = path.read_text()
        if "@given" not in text:
            continue
        for item in ast.walk(ast.parse(text)):
            if isinstance(item, ast.ImportFrom) and item.module and item.module.partition(".")[0] == "peili":
                module = item.module.partition(".")[2]
                found |= {(module, alias.name) for alias in item.names} | {(module, "")}
    return found


@pytest.mark.parametrize("what", PARSERS)
def test_it_is_fuzzed(what: str) -> None:
    module, name = PARSERS[what]
    path = SOURCE.joinpath(*module.split("."))
    assert path.with_suffix(".py").exists() or path.is_dir(), f"{module} has moved"
    assert (module, name) in imported_by_properties()


def test_every_property_tries_harder_under_make_fuzz() -> None:
    for path in HERE.glob("test_*.py"):
        fixed = re.findall(r"max_examples=(?!examples\()", path.read_text())
        assert not fixed or path.name == Path(__file__).name, f"{path.name} has a fixed number of examples"
